#!/usr/bin/env bats
# put and get: what arrives is what was sent, or nothing arrives. One VM for the file; what a test
# makes in the guest is below a name of its own.

load helper
load helper_shared
setup_file() { shared_vm --memory 512M; }

guest() { pv-vm run v -o run.stdout -- sh -c "$1"; }
no_temporary() { [ -z "$(guest 'find / -xdev -name "*.pv-*"; find /tmp /run -name "*.pv-*"')" ]; }

@test "a file goes in and comes out the same, with its mode, and the document says so" {
  random_file a 3000001
  chmod 0751 a
  ok pv-vm put v a /tmp/a
  has '.transfer | .direction == "put" and .guest_path == "/tmp/a" and .host_path == "a" and
    .bytes == 3000001 and (.checksum | test("^xxh3:[0-9a-f]{16}$")) and .duration_ms > 0 and
    .mib_per_s > 0'
  sum=$(jq -r .transfer.checksum <<<"$output")
  assert_equal "$(guest 'md5sum </tmp/a; stat -c %a /tmp/a')" "$(md5sum <a)"$'\n751'
  ok pv-vm get v /tmp/a b
  has ".transfer | .direction == \"get\" and .bytes == 3000001 and .checksum == \"$sum\""
  cmp a b
  assert_equal "$(stat -c %a b)" 751
  ok pv-vm get v /tmp/a b --mode 0600 --no-check
  has '.transfer | has("checksum") | not'
  assert_equal "$(stat -c %a b)" 600
}

@test "sizes around a round of the transfer, none at all, and holes" {
  random_file bytes 67108865
  for size in 0 1 65535 65536 65537 67108863 67108864 67108865; do
    head -c $size bytes >a
    ok pv-vm put v a /tmp/size -o transfer.bytes
    assert_output $size
    ok pv-vm get v /tmp/size b -o transfer.bytes
    assert_output $size
    cmp a b
  done
  truncate -s 20M holes
  printf x | dd of=holes bs=1 seek=10M conv=notrunc status=none
  ok pv-vm put v holes /tmp/size
  ok pv-vm get v /tmp/size b
  cmp holes b
  guest 'rm /tmp/size'
}

@test "a guest that cannot hash quickly sends back what it has; one that hashes wrongly is found out" {
  random_file a 3000001
  guest 'mv /bin/pv-runner /bin/hidden'
  ok pv-vm put v a /tmp/back -o transfer.bytes
  assert_output 3000001
  ok pv-vm get v /tmp/back b -o transfer.bytes
  cmp a b
  guest 'printf "#!/bin/sh\necho \$4 0123456789abcdef\n" >/bin/pv-runner; chmod 755 /bin/pv-runner'
  expect_error io 4 pv-vm put v a /tmp/wrong
  [[ $stderr == *'is not what was sent'* ]]
  expect_error io 4 pv-vm get v /tmp/back c
  guest 'mv /bin/hidden /bin/pv-runner'
  run -0 guest 'ls /tmp | grep -c wrong; true'
  assert_output 0
  [ ! -e c ]
  guest 'rm /tmp/back'
}

@test "get writes into what is no regular file, follows links, and gives nobody's rights away" {
  guest 'printf content >/tmp/special && chmod 6755 /tmp/special'
  mkfifo fifo
  ok pv-vm get v /tmp/special plain
  assert_equal "$(stat -c %a plain)" 755
  ok pv-vm get v /tmp/special plain --mode 4700
  assert_equal "$(stat -c %a plain)" 4700
  cat fifo >got &
  reader=$!
  ok pv-vm get v /tmp/special fifo
  wait $reader
  assert_equal "$(cat got)" content
  [ -p fifo ]
  expect_error timeout 6 pv-vm get v /tmp/special fifo --timeout 300ms
  mkdir deep
  echo old >deep/file
  ln -s deep/file link
  ln -s link link2
  ok pv-vm get v /tmp/special link2
  assert_equal "$(cat deep/file)" content
  [ -L link ] && [ -L link2 ]
  ln -s nothing dangling
  ln -s loop loop
  ln -s deep folder
  for path in dangling loop folder deep; do
    expect_error invalid 4 pv-vm get v /tmp/special $path
  done
  [ ! -e nothing ] && [ -L dangling ]
  assert_equal "$(ls -A deep)" file
}

@test "put replaces regular files only, and follows links to them" {
  random_file a 1000
  guest 'mkdir -p /tmp/kinds/deep && cd /tmp/kinds && mkfifo fifo && ln -s fifo to_fifo &&
    echo old >"deep/file
" && ln -s "deep/file
" link && ln -s link link2 && ln -s none dangling && ln -s loop loop && ln -s deep folder'
  for path in /dev/null /tmp/kinds/{fifo,to_fifo,dangling,loop,folder}; do
    expect_error io 4 pv-vm put v a $path
  done
  ok pv-vm put v a /tmp/kinds/link2
  assert_equal "$(guest 'cd /tmp/kinds; stat -c %F /dev/null fifo link link2; ls; ls deep | wc -l
    md5sum <link')" "character special file
fifo
symbolic link
symbolic link
dangling
deep
fifo
folder
link
link2
loop
to_fifo
1
$(md5sum <a)"
  no_temporary
}

@test "a program that was put can be run as soon as it is there" {
  printf '#!/bin/busybox sh\necho ran\n' >script
  # Some see it before the script of the transfer has gone on.
  local _
  for _ in $(seq 6); do
    guest 'sh -c "until [ -e /tmp/script ]; do :; done; /tmp/script" >/tmp/ran 2>&1 &'
    ok pv-vm put v script /tmp/script --mode 755
    guest 'until [ -s /tmp/ran ]; do sleep 0.1; done; rm /tmp/script'
    assert_equal "$(guest 'cat /tmp/ran')" ran
  done
}

@test "stdin and stdout are files too" {
  seq 100000 >a
  ok bash -c 'cat a | pv-vm put v - /tmp/std --mode 0640'
  assert_equal "$(guest 'stat -c %a /tmp/std')" 640
  pv-vm get v /tmp/std - >b
  cmp a b
  # A pipeline passes its document on.
  ok bash -c 'pv-vm info v | pv-vm put a /tmp/std2 | pv-vm get /tmp/std2 c'
  has '.vm.name == "v" and .transfer.direction == "get"'
  cmp a c
  # An attribute of sysfs is a page long, says stat(1).
  ok pv-vm get v /sys/power/state state
  assert_equal "$(cat state)" "$(guest 'cat /sys/power/state')"
  # What the kernel makes up has no size.
  pv-vm get v /proc/version - >version
  assert_equal "$(cat version)" "$(guest 'cat /proc/version')"
}

@test "names with blanks, quotes and newlines" {
  random_file a 100
  name=$'/tmp/it\'s "a" $(file) \n*'
  ok pv-vm put v a "$name"
  ok pv-vm get v "$name" b
  cmp a b
}

@test "what cannot be: one clear line, and nothing is left" {
  random_file a 100
  expect_error usage 2 pv-vm put v a tmp/a
  expect_error usage 2 pv-vm put v a /tmp/
  expect_error usage 2 pv-vm put v a /tmp/a --mode 9
  expect_error usage 2 pv-vm put v
  expect_error invalid 4 pv-vm put v . /tmp/a2
  expect_error system 5 pv-vm put v none /tmp/a2
  expect_error io 4 pv-vm put v a /tmp
  expect_error io 4 pv-vm put v a /no/such/a
  expect_error io 4 pv-vm get v /tmp b
  expect_error io 4 pv-vm get v /no/such/a b
  expect_error system 5 pv-vm get v /etc/passwd no/such/b
  expect_error invalid 4 pv-vm get v /etc/passwd .
  rm -f separate-stderr*
  assert_equal "$(ls -A)" a
  no_temporary
}

@test "the guest's disk is full" {
  guest 'mkdir /tmp/small && mount -t tmpfs -o size=1m small /tmp/small && echo old >/tmp/small/f'
  random_file a 5000000
  expect_error io 4 pv-vm put v a /tmp/small/f
  [[ $output == *'No space left on device'* ]]
  assert_equal "$(guest 'cat /tmp/small/f; ls -A /tmp/small')" $'old\nf'
  guest 'umount /tmp/small'
}

@test "our end is killed in the middle: the old file stays, and nothing else" {
  guest 'echo old >/tmp/killed'
  mkfifo pipe
  pv-vm put v - /tmp/killed <pipe 3>&- &
  putter=$!
  exec 7>pipe
  head -c 1000000 /dev/urandom >&7
  until_true eval '[ "$(guest "ls /tmp | grep -c killed.pv-")" = 1 ]'
  kill -KILL $putter
  exec 7>&-
  until_true no_temporary
  assert_equal "$(guest 'cat /tmp/killed')" old
  echo old >here
  pv-vm get v /dev/zero here 3>&- &
  getter=$!
  until_true eval '[ "$(pv-vm info v -o open_streams)" = 1 ]'
  kill -KILL $getter
  until_true eval '[ "$(pv-vm info v -o open_streams)" = 0 ]'
  assert_equal "$(cat here)" old
  rm pipe
  assert_equal "$(ls -A)" here
}

@test "what is begun right after another was killed at its beginning does not meet it" {
  random_file data 100000
  for _ in {1..4}; do
    pv-vm get v /dev/zero here 3>&- &
    getter=$!
    until_true eval '[ "$(pv-vm info v -o open_streams)" = 1 ]'
    slay $getter
    until_true eval '[ "$(pv-vm info v -o open_streams)" = 0 ]'
    ok pv-vm put v data /tmp/next
  done
}

@test "the agent is killed in the middle: an error, and nothing is left" {
  mkfifo pipe
  pv-vm put v - /tmp/agent <pipe >doc 2>err 3>&- &
  putter=$!
  exec 7>pipe
  head -c 1000000 /dev/urandom >&7 || fail "it ended before: $(cat doc err)"
  until_true eval '[ "$(guest "ls /tmp | grep -c agent.pv-")" = 1 ]'
  pv-vm run v --timeout 5s -- killall qemu-ga pv-runner >/dev/null 2>&1 || true
  status=0
  wait $putter || status=$?
  exec 7>&-
  assert_equal "$status" 4
  assert_equal "$(jq -r .error.code doc)" agent
  until_true no_temporary
}

@test "a time limit ends a transfer, and nothing is left" {
  mkfifo silent
  exec 7<>silent
  expect_error timeout 6 bash -c 'pv-vm put v - /tmp/late --timeout 1s <silent'
  exec 7>&-
  until_true no_temporary
}

@test "the VM ends in the middle" {
  guest_vm w
  mkfifo pipe
  pv-vm put w - /tmp/x <pipe >doc 2>err 3>&- &
  putter=$!
  exec 7>pipe
  head -c 1000000 /dev/urandom >&7
  until_true eval '[ "$(pv-vm info w -o open_streams)" -ge 1 ]'
  kill -KILL "$(pv-vm info w -o pid)"
  status=0
  wait $putter || status=$?
  exec 7>&-
  assert_equal "$status" 4
  assert_equal "$(jq -r .error.code doc)" guest_died
  expect_error wrong_state 4 pv-vm put w doc /tmp/x
  expect_error wrong_state 4 pv-vm get w /tmp/x y
  pv-vm close w >/dev/null
}
