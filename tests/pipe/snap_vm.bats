#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, pv-snap does not do with a VM what pv-snap(1) says: it ends one that was to go on,
# loses one, or lets another one begin than the one that was asked for.

load helper
load helper_snap

setup_file() {
  snap_file || return 0
  truncate -s 4M a.img
  pv-vm create v | pv-disk attach --id vda --image a.img | pv-vm boot >/dev/null
  guest v 'mke2fs -q /dev/vda 2>/dev/null || mkfs.ext2 /dev/vda >/dev/null 2>&1 || true
    echo 0123456789abcdef0123456789abcdef >/etc/machine-id; echo here >/tmp/mark'
  pv-vm clock v set 1700000000 >/dev/null
  pv-snap take v "$PV_SNAP" --stop </dev/null >"$PV_T/taken"
  pv-vm info v -o state >"$PV_T/after"
  pv-vm close v >/dev/null
}
setup() { snap_setup; }
teardown() { snap_teardown; }
teardown_file() { close_shared_vm; }

state_of() { pv-vm info "$1" -o state </dev/null; }

@test "take lets the VM go on and says how long it stood still; with --stop it is shut down" {
  # If this fails, taking a snapshot ends the VM, or leaves it standing.
  assert_equal "$(cat "$PV_T/after")" shutdown
  has ".snap.path == \"$PV_SNAP\" and .snap.paused_ms > 0 and .vm.state == \"shutdown\"" \
    "$(cat "$PV_T/taken")"
  restored "$PV_SNAP" v
  guest v '(while :; do i=$((i + 1)); echo $i >/tmp/c; mv /tmp/c /tmp/count; done) >/dev/null 2>&1 </dev/null &'
  ok pv-snap take v ./s
  has '.vm.state == "booted" and .snap.paused_ms > 0 and .snap.was_paused == false'
  a=$(guest v 'cat /tmp/count; sleep 0.2')
  [ "$(guest v 'cat /tmp/count')" -gt "$a" ]
  # What ran goes on from there, in the one that is restored too.
  restored ./s w
  b=$(guest w 'cat /tmp/count; sleep 0.2')
  [ "$(guest w 'cat /tmp/count')" -gt "$b" ]
}

@test "a paused VM stays paused when a snapshot is taken, which is restored to run" {
  # If this fails, a snapshot lets a VM run that somebody has stopped.
  restored "$PV_SNAP" v
  guest v 'echo more >/tmp/mark'
  pv-vm pause v >/dev/null
  ok pv-snap take v ./s
  has '.snap.was_paused and .vm.state == "paused"'
  assert_equal "$(state_of v)" paused
  ok pv-snap restore ./s w
  has '.vm.state == "booted"'
  assert_equal "$(guest w 'cat /tmp/mark')" more
  pv-vm resume v >/dev/null
  assert_equal "$(guest v 'cat /tmp/mark')" more
}

@test "restored paused it stands still until it is resumed" {
  # If this fails, --paused lets the guest run before somebody has looked at it.
  ok pv-snap restore "$PV_SNAP" v --paused
  has '.vm.state == "paused"'
  used=$(pv-vm info v -o vcpus | jq -c .)
  expect_error wrong_state 255 pv-vm run v -- true
  assert_equal "$(pv-vm info v -o vcpus | jq -c .)" "$used"
  # Twice in a row a snapshot is the same guest.
  ok pv-snap take v ./s
  has '.snap.was_paused'
  ok pv-vm resume v
  assert_equal "$(guest v 'cat /tmp/mark')" here
  for flags in --reseed '--clock host'; do
    # shellcheck disable=SC2086
    expect_error usage 2 pv-snap restore "$PV_SNAP" w --paused $flags
  done
}

@test "the guest's clock goes on where it was, or is set to the host's" {
  # If this fails, a restored guest has a time that nobody has asked for.
  ok pv-snap clone "$PV_SNAP" --name keep
  ok pv-snap clone "$PV_SNAP" --name host --clock host
  kept=$(($(guest keep1 'date +%s') - 1700000000))
  ((0 <= kept && kept < 120))
  now=$(($(guest host1 'date +%s') - $(date +%s)))
  ((-30 <= now && now <= 30))
  expect_error usage 2 pv-snap restore "$PV_SNAP" w --clock soon
}

@test "clones are the same guest, unless they are reseeded" {
  # If this fails, two clones that were to differ have the same keys, or the same host name.
  look='head -c 16 /dev/urandom | od -An -tx1; cat /etc/machine-id; hostname'
  ok pv-snap clone "$PV_SNAP" --count 2 --name 's%'
  ok pv-snap clone "$PV_SNAP" --count 2 --name 'r%' --reseed
  for vm in s1 s2 r1 r2; do guest $vm "$look" >"$vm.txt"; done
  cmp <(tail -n 2 s1.txt) <(tail -n 2 s2.txt)
  for line in 1 2 3; do
    assert_equal "$(for vm in s1 r1 r2; do sed -n ${line}p $vm.txt; done | sort -u | wc -l)" 3
  done
  assert_equal "$(cat r1.txt r2.txt | grep -x 'r[12]' | tr '\n' ' ')" 'r1 r2 '
  [[ $(sed -n 2p r1.txt) =~ ^[0-9a-f]{32}$ ]]
}

@test "a restored VM is a VM: run, put, pause, power button, reset and boot work" {
  # If this fails, something that the supervisor knew of the VM did not come back.
  restored "$PV_SNAP" v
  run -0 pv-vm run v --raw -- cat /tmp/mark </dev/null
  assert_output here
  run -3 pv-vm run v --raw -- sh -c 'exit 3' </dev/null
  head -c 300000 /dev/urandom >bytes
  ok pv-vm put v bytes /tmp/bytes
  ok pv-vm get v /tmp/bytes back
  cmp bytes back
  ok pv-vm pause v
  ok pv-vm resume v
  pv-vm run v --raw -- seq 20000 </dev/null | cmp - <(seq 20000)
  guest v 'echo kept | dd of=/dev/vda conv=fsync 2>/dev/null'
  qemu=$(pv-vm info v -o pid)
  ok pv-vm reset v
  has '.vm.state == "booted"'
  assert_equal "$(pv-vm info v -o pid)" "$qemu"
  run -1 guest v 'test -e /tmp/mark'
  assert_equal "$(guest v 'head -c 4 /dev/vda')" kept
  # A snapshot after the reset is one of the new boot.
  guest v 'echo new >/tmp/new'
  ok pv-snap take v ./s
  ok pv-vm power-button v
  has '.vm.state == "shutdown"'
  ok pv-vm boot v
  assert_equal "$(guest v 'head -c 4 /dev/vda; ls /tmp')" kept
  ok pv-snap restore ./s w
  assert_equal "$(guest w 'cat /tmp/new; head -c 4 /dev/vda')" $'new\nkept'
}

@test "a snapshot has a name in the scope, a path, or comes down the pipeline" {
  # If this fails, a command works on another snapshot or VM than the one that was named.
  restored "$PV_SNAP" v
  run -0 --separate-stderr pv-snap take v -o snap.name </dev/null
  assert_output v-1
  guest v 'echo second >/tmp/mark'
  run -0 --separate-stderr pv-snap take v -o snap.name </dev/null
  assert_output v-2
  ok pv-snap restore v-1 w
  assert_equal "$(guest w 'cat /tmp/mark')" here
  ok pv-snap restore v-2 x
  assert_equal "$(guest x 'cat /tmp/mark')" second
  # One word that no VM can be called is a path.
  (cd "$PWD" && pv-vm info v | pv-snap take ./s >doc)
  has ".snap.path == \"$PWD/s\" and .vm.name == \"v\"" "$(cat doc)"
  ok pv-snap clone --name y --in doc
  has '.vm.name == "y1" and .vm.state == "booted"'
  # The document's VM is running: it is not replaced.
  expect_error wrong_state 4 bash -c 'pv-snap restore <doc'
  run -0 --separate-stderr bash -c 'set -o pipefail
    pv-snap take v ./t --stop </dev/null | pv-snap restore | pv-vm run --raw -- cat /tmp/mark'
  assert_output second
  assert_equal "$(state_of v)" booted
}

@test "clone makes as many VMs as are asked for, each with disks of its own" {
  # If this fails, clones share what one of them writes, or a name is taken twice.
  pv-vm create c-2 >/dev/null
  ok pv-snap clone "$PV_SNAP" --count 3 --name 'c-%' --jobs 2
  assert_equal "$(jq -r '.vm.name + " " + .vm.state' <<<"$output" | sort)" \
    $'c-1 booted\nc-3 booted\nc-4 booted'
  for n in 1 3 4; do guest c-$n "echo vm$n | dd of=/dev/vda conv=fsync 2>/dev/null; echo $n >/tmp/n"; done
  assert_equal "$(for n in 1 3 4; do guest c-$n 'head -c 3 /dev/vda; cat /tmp/n'; done | tr -d '\n')" \
    vm11vm33vm44
  assert_equal "$(state_of c-2)" created
  expect_error usage 2 pv-snap clone "$PV_SNAP" --count 0
  expect_error usage 2 pv-snap clone "$PV_SNAP" --count 1 --name 'a b'
  expect_error usage 2 pv-snap clone "$PV_SNAP" --jobs 0
}

@test "list, info, check and delete: what there is, how large, whether it is whole, and gone" {
  # If this fails, a snapshot cannot be found, or is still there after it was deleted.
  restored "$PV_SNAP" v
  assert_equal "$(pv-snap list)" ''
  pv-snap take v </dev/null >/dev/null
  pv-snap take v </dev/null >/dev/null
  assert_equal "$(pv-snap list -o snap.name | sort | tr '\n' ' ')" 'v-1 v-2 '
  ok pv-snap info v-1
  has '.snap | .vm == "v" and .disks == ["vda"] and .memory_bytes == 268435456 and .vms == [] and
    .profile == "tiny" and (.files | map(.name) | index("ram") != null)'
  path=$(jq -r .snap.path <<<"$output") size=$(jq -r .snap.size_bytes <<<"$output")
  used=$(($(du -sk --exclude=verified "$path" | cut -f1) * 1024))
  ((size > 1000000 && size <= used && used < size + 100000))
  ok pv-snap check v-1
  has '.snap.whole'
  ok pv-snap info "$PV_SNAP"
  has ".snap.vms == [\"$PV_SCOPE/v\"]"
  ok pv-snap delete v-1
  has '.snap.deleted'
  [ ! -e "$path" ]
  ok pv-snap delete v-1
  has '.snap.deleted == false'
  ok pv-snap delete ./nosuch
  has '.snap.deleted == false'
  expect_error no_such_snapshot 4 pv-snap info v-1
  [[ $stderr == *v-2* ]]
  expect_error no_such_snapshot 4 pv-snap restore v-1 w
  mkdir other
  touch other/file
  expect_error invalid 4 pv-snap delete ./other --force
  [ -e other/file ]
  # A document names it as well.
  run -0 bash -c 'pv-snap take v ./s </dev/null | pv-snap delete -o snap.deleted'
  assert_output true
  [ ! -e s ]
  # Those of a scope go with it.
  path=$(pv-snap info v-2 -o snap.path </dev/null)
  pv-vm scope close >/dev/null
  [ ! -e "$path" ]
}

@test "a snapshot that VMs run on is deleted by force only, and they go on" {
  # If this fails, deleting a snapshot takes memory or disks away from running VMs.
  restored "$PV_SNAP" v
  guest v 'tr "\0" K </dev/zero | head -c 1000000 >/tmp/k
    tr "\0" D </dev/zero | dd of=/dev/vda bs=64k count=16 iflag=fullblock conv=fsync 2>/dev/null
    echo 3 >/proc/sys/vm/drop_caches'
  for where in ./s ''; do
    pv-snap take v $where </dev/null >doc
    path=$(jq -r .snap.path doc)
    ok pv-snap clone --name w --in doc
    expect_error in_use 4 bash -c 'pv-snap delete <doc'
    has ".error.vms == [\"$PV_SCOPE/w1\"]"
    [ -e "$path/ram" ]
    ok pv-snap delete "$path" --force
    [ ! -e "$path" ]
    assert_equal "$(guest w1 'md5sum </tmp/k')" "$(guest v 'md5sum </tmp/k')"
    assert_equal "$(guest w1 'head -c 1000000 /dev/vda | tr -d D | wc -c')" 0
    guest w1 'head -c 3000000 /dev/urandom >/tmp/new'
    # Its disks stand on what is gone: it says so, or takes one that is whole.
    run --separate-stderr pv-snap take w1 ./again </dev/null
    if [ "$status" -eq 0 ]; then ok pv-snap check ./again; else [ ! -e again ]; fi
    rm -rf again
    assert_equal "$(guest w1 'wc -c </tmp/new')" 3000000
    pv-vm close w1 >/dev/null
  done
}

@test "a snapshot that another one stands on is not deleted under the VMs of that one" {
  # If this fails, a running VM loses its disks with a directory that nobody said it needs.
  restored "$PV_SNAP" v
  ok pv-snap take v ./one
  pv-vm close v >/dev/null
  restored ./one v
  ok pv-snap take v ./two
  pv-vm close v >/dev/null
  restored ./two v
  has ".snap.vms == [\"$PV_SCOPE/v\"]" "$(pv-snap info ./one </dev/null)"
  expect_error in_use 4 pv-snap delete ./one
  pv-vm close v >/dev/null
  ok pv-snap delete ./one
}

@test "a transfer that was interrupted does not keep a VM from being taken" {
  # If this fails, one killed put is the end of all snapshots of a VM.
  restored "$PV_SNAP" v
  head -c 30000000 /dev/urandom >data
  for how in INT KILL; do
    timeout -s $how 0.5 "$(type -P pv-vm)" put v data /tmp/data </dev/null >/dev/null 2>&1 || true
    sleep 3.2 # then its port is taken out
    ok pv-snap take v "./after-$how" --timeout 60s
  done
}

@test "who keeps the guest busy is named, and the VM goes on" {
  # If this fails, a stream is cut by a snapshot, or nobody learns whose it is.
  restored "$PV_SNAP" v
  PV_CALLER=test.sh:7 pv-vm run v -- sleep 100 >/dev/null 2>&1 </dev/null 3>&- &
  runner=$!
  streams() { [ "$(pv-vm info v -o open_streams </dev/null)" = 1 ]; }
  until_true streams
  expect_error streams_open 4 pv-snap take v ./s --timeout 20s
  has ".error.streams[0] | .pid == $runner and .caller == \"test.sh:7\" and
    (.command | endswith(\"run v -- sleep 100\"))"
  [[ $stderr == *"sleep 100"*"pid $runner"*"test.sh:7"* ]]
  assert_equal "$(echo s*)" 's*'
  assert_equal "$(guest v 'cat /tmp/mark')" here
  kill "$runner"
  wait "$runner" || true
  quiet() { [ "$(pv-vm info v -o open_streams </dev/null)" = 0 ]; }
  until_true quiet
  ok pv-snap take v ./s
}

@test "restore leaves a VM that runs alone, and take one that does not" {
  # If this fails, a mistaken name takes the disks of a running VM away.
  restored "$PV_SNAP" v
  guest v 'echo mine >/tmp/mark'
  expect_error wrong_state 4 pv-snap restore "$PV_SNAP" v
  has '.error.state == "booted" and .error.allowed == ["created", "shutdown"]'
  pv-vm pause v >/dev/null
  expect_error wrong_state 4 pv-snap restore "$PV_SNAP" v
  has '.error.state == "paused"'
  pv-vm resume v >/dev/null
  assert_equal "$(guest v 'cat /tmp/mark; dd if=/dev/vda bs=4k count=9 iflag=direct 2>/dev/null | wc -c')" \
    $'mine\n36864'
  pv-vm shutdown v >/dev/null
  expect_error wrong_state 4 pv-snap take v ./s
  [ ! -e s ]
  ok pv-snap restore "$PV_SNAP" v
  assert_equal "$(guest v 'cat /tmp/mark')" here
  pv-vm create n >/dev/null
  expect_error wrong_state 4 pv-snap take n ./s
  ok pv-snap restore "$PV_SNAP" n
  expect_error no_such_vm 4 pv-snap take nosuch ./s
  expect_error usage 2 pv-snap take v ./s more
  expect_error usage 2 pv-snap restore "$PV_SNAP" v more
  expect_error usage 2 pv-snap restore "$PV_SNAP" 'a b'
}

# A disk with an empty file system, as /dev/vdb of v.
plug_ext4() {
  pv-disk attach v --id fs --memory 8M </dev/null >/dev/null
  mke2fs -q -t ext4 -F fs.img 8M
  qemu-img convert -n -f raw -O raw fs.img "$(uri v/fs)"
}

@test "a frozen guest is thawed again, where it was and where it goes on" {
  # If this fails, --freeze leaves a guest whose file systems take no write any more.
  restored "$PV_SNAP" v
  plug_ext4
  guest v 'mount /dev/vdb /mnt && echo one >/mnt/f'
  pv-vm pause v >/dev/null
  expect_error wrong_state 4 pv-snap take v ./s --freeze
  pv-vm resume v >/dev/null
  ok pv-snap take v ./s --freeze
  has .snap.frozen
  guest v 'echo two >/mnt/f; sync'
  restored ./s w
  assert_equal "$(guest w 'cat /mnt/f; echo three >/mnt/f; sync; cat /mnt/f')" $'one\nthree'
  # One that stands still cannot be thawed.
  expect_error unsupported 4 pv-snap restore ./s x --paused
  expect_error no_such_vm 4 pv-vm info x
  # The snapshot's own disk needs no journal.
  cp s/disks/fs/data out.raw
  run -0 e2fsck -fn out.raw
  assert_equal "$(debugfs -R 'cat /f' out.raw 2>/dev/null)" one
}

@test "whoever has frozen a guest and is killed leaves it thawed" {
  # If this fails, a guest's file systems take no write for good, and the VM says that it is well.
  restored "$PV_SNAP" v
  plug_ext4
  guest v 'mount /dev/vdb /mnt'
  start=$(date +%s%N)
  ok pv-snap take v ./s --freeze
  whole_ms=$((($(date +%s%N) - start) / 1000000))
  for round in {1..10}; do
    pv-snap take v "./s$round" --freeze </dev/null >/dev/null 2>&1 3>&- &
    taker=$!
    sleep "$(printf '0.%03d' $((whole_ms * round / 11 % 1000)))"
    kill -KILL $taker 2>/dev/null || true
    wait $taker || true
    run -0 pv-vm run v --raw --timeout 60s -- sh -c "echo $round >/mnt/f && sync && cat /mnt/f" </dev/null
    assert_output $round
  done
}

@test "a VM with a disk that QEMU opened itself is refused, and goes on" {
  # If this fails, a snapshot is taken that lacks one of the guest's disks.
  truncate -s 1M own.img
  pv-vm create v --qemu-arg -drive --qemu-arg if=virtio,file=own.img,format=raw >/dev/null
  pv-vm boot v >/dev/null
  expect_error not_mediated 4 pv-snap take v ./s
  assert_equal "$(echo s*)" 's*'
  ok pv-vm run v -- true
}

@test "a lan's member goes on with it, its clone with the cable pulled" {
  # If this fails, two guests with one address are in a lan, or the only one has lost its place.
  pv-vm lan create net >/dev/null
  restored "$PV_SNAP" v
  restored "$PV_SNAP" other
  ok pv-vm lan attach net v other
  carrier() { guest "$1" 'cat /sys/class/net/eth0/carrier'; }
  guest v 'ping -c1 -W5 other.net' >/dev/null
  ok pv-snap take v ./s
  guest v 'ping -c1 -W5 other.net' >/dev/null
  ok pv-snap clone ./s --name w
  assert_equal "$(carrier w1)" 0
  assert_equal "$(carrier v)" 1
  assert_equal "$(pv-vm lan info net -o lan.members | jq -c 'map(.vm)')" '["v","other"]'
  guest other 'ping -c1 -W5 v.net' >/dev/null
  pv-vm shutdown v >/dev/null
  restored ./s v
  assert_equal "$(carrier v)" 1
  guest v 'ping -c1 -W5 other.net' >/dev/null
}
