#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a mistake of the user ends in silence, a riddle, the wrong exit class, or a disk
# server that nobody asked for. Each case: one line on stderr, its code, its class, nothing left.

load helper
setup() { pv_setup; }
teardown() { pv_teardown; }

# Nothing was started and nothing registered.
nothing_left() {
  [ -z "$(ls -A "$PV_RUN_DIR/obj" 2>/dev/null)" ] || fail "left: $(ls "$PV_RUN_DIR/obj")"
  [ -z "$(ls -A "$PV_RUN_DIR/idx" 2>/dev/null)" ] || fail "left: $(find "$PV_RUN_DIR/idx")"
}

@test "no verb and unknown verbs list the verbs" {
  expect_error usage 2 pv-disk
  expect_error usage 2 pv-disk sreve
  has '.error.valid | index("serve") != null'
  expect_error usage 2 pv-fault ad
  has '.error.valid | index("add") != null'
}

@test "unknown flags, missing values and stray words are usage errors with a hint" {
  expect_error usage 2 pv-disk serve --scrach 1M
  [[ $stderr == *"try 'pv-disk serve --help'"* ]]
  expect_error usage 2 pv-disk serve --scratch
  expect_error usage 2 pv-disk read d stray words
  expect_error usage 2 pv-disk --nosuch
  expect_error usage 2 pv-fault list --dsk d
  expect_error usage 2 pv-disk info d --json=yaml
}

@test "sizes, sectors, counts and durations that are none are usage errors" {
  local size
  for size in 1x -5 '' ' ' 1.2.3 0x10 99999999E 16384P; do
    expect_error usage 2 pv-disk serve d "--scratch=$size"
    nothing_left
  done
  serve d --scratch 1M
  local number
  for number in x -1 1.5 99999999999999999999; do
    expect_error usage 2 pv-disk read d "--sector=$number"
    expect_error usage 2 pv-disk read d "--count=$number"
  done
  expect_error usage 2 pv-disk read d --offset=zero
  expect_error usage 2 pv-disk read d --sector 1 --offset 512
  expect_error usage 2 pv-disk read d --count 1 --length 512
}

@test "--timeout needs a duration of more than 0, of every verb, whether it waits or not" {
  serve d --scratch 1M
  local bad
  for bad in nan inf -1s 0 0s 0.0ms soon '' 1y; do
    for verb in 'pv-disk read d' 'pv-disk layers' 'pv-fault list --disk d' 'pv-vm create m' \
      'pv-vm list'; do
      expect_error usage 2 $verb "--timeout=$bad"
    done
    run -255 --separate-stderr pv-vm run m "--timeout=$bad" -- true
    [[ $stderr == *--timeout* ]]
  done
  ok pv-vm list -o name
  assert_output ''
}

@test "an empty --scope, --in or -o is an error, not the default" {
  serve d --scratch 1M
  for flag in --scope --in -o; do
    expect_error_line 2 pv-disk info d "$flag" ''
    expect_error_line 2 pv-vm list "$flag" ''
  done
}

expect_error_line() {
  run "-$1" --separate-stderr "${@:2}"
  assert_equal "${#stderr_lines[@]}" 1
}

@test "--help shows how --json is written" {
  run -0 pv-disk info --help
  assert_line --regexp '^ +--json\[=pretty\]($| +Print)'
  refute_output --partial '{compact}'
}

@test "a scratch disk of no sectors or of half a sector is refused" {
  expect_error invalid 4 pv-disk serve d --scratch 0
  expect_error invalid 4 pv-disk serve d --scratch 100
  expect_error invalid 4 pv-disk serve d --scratch 1000
  expect_error invalid 4 pv-disk serve d --memory 513
  expect_error invalid 4 pv-disk serve d --memory 512 --sector-size 4096
  nothing_left
}

@test "names that are none are refused before anything starts" {
  local name
  for name in '..' '/a' 'a/' '.hidden' '-x' 'a b' $'a\nb' "$(printf 'x%.0s' {1..65})" 'ä' 'a*'; do
    expect_error usage 2 pv-disk serve --scratch 1M -- "$name"
    expect_error usage 2 pv-disk info -- "$name"
    expect_error usage 2 pv-disk list "--scope=$name"
  done
  nothing_left
  local longest
  longest=$(printf 'x%.0s' {1..64})
  serve "$longest" --memory 1M
  ok pv-disk read "$longest"
}

@test "an unknown disk lists the known ones" {
  serve known --memory 1M
  local verb
  for verb in info size stats read flush; do
    expect_error no_such_disk 4 pv-disk "$verb" nosuch
    has '.error.valid == ["known"]'
  done
  expect_error no_such_disk 4 bash -c 'printf x | pv-disk write nosuch'
  expect_error no_such_disk 4 pv-disk discard nosuch --all
  expect_error no_such_disk 4 pv-fault add --disk nosuch eio_read
  expect_error no_such_disk 4 pv-disk info v/known
  expect_error no_such_disk 4 pv-disk detach nosuch
}

@test "an image that is missing, a directory, a pipe or not readable" {
  expect_error no_image 4 pv-disk serve d --image missing.img
  [[ $stderr == *missing.img* ]]
  mkdir dir
  expect_error no_image 4 pv-disk serve d --image dir
  expect_error no_image 4 pv-disk serve d --template dir --read-only
  mkfifo fifo
  expect_error no_image 4 timeout 30 pv-disk serve d --image fifo --timeout 20s
  expect_error no_image 4 pv-disk serve d --image /dev/null
  nothing_left
}

@test "an image that this user may not read or write" {
  [ "$(id -u)" = 0 ] || skip "needs root to become somebody else"
  truncate -s 1M t.img
  chmod 0600 t.img
  chmod 0755 "$PV_T" "$PV_T/w"
  mkdir -m 0700 other
  chown 65534:65534 other
  as_nobody() {
    env PV_RUN_DIR="$PWD/other/run" \
      setpriv --reuid=65534 --regid=65534 --clear-groups "$(command -v pv-disk)" "$@"
  }
  as_nobody --version >/dev/null || skip "nobody cannot reach pv-disk"
  expect_error no_image 4 as_nobody serve d --image "$PWD/t.img"
  [[ $stderr == *t.img*'Permission denied'* ]]
  chmod 0644 t.img
  expect_error no_image 4 as_nobody serve d --image "$PWD/t.img"
  run as_nobody serve d --image "$PWD/t.img" --read-only
  assert_success
  run as_nobody close d
  assert_success
}

@test "an image smaller than a sector, or of odd size" {
  : >empty.img
  expect_error invalid 4 pv-disk serve d --image empty.img
  truncate -s 511 small.img
  expect_error invalid 4 pv-disk serve d --image small.img
  truncate -s 513 odd.img
  expect_error invalid 4 pv-disk serve d --image odd.img
  [[ $stderr == *odd.img*513* ]]
  truncate -s 5120 five.img
  expect_error invalid 4 pv-disk serve d --image five.img --sector-size 4096
  nothing_left
}

@test "an image in use by another of our servers" {
  truncate -s 1M t.img
  ln t.img hard.img
  ln -s t.img soft.img
  serve a --image t.img
  local path
  for path in t.img hard.img soft.img; do
    expect_error in_use 4 pv-disk serve b --image "$path"
    expect_error in_use 4 pv-disk serve b --image "$path" --read-only
  done
  ok pv-disk read a
  ok pv-disk close a
  serve r1 --image t.img --read-only
  serve r2 --image t.img --read-only
  expect_error in_use 4 pv-disk serve b --image t.img
}

@test "an image in use by qemu-nbd, and ours in use for qemu-img" {
  truncate -s 1M t.img
  qemu-nbd -f raw -k "$PV_T/q.sock" -t t.img &
  local peer=$!
  # The socket is there before the image is locked.
  until_true nbdinfo --size "nbd+unix:///?socket=$PV_T/q.sock"
  expect_error in_use 4 pv-disk serve d --image t.img
  [[ $stderr == *t.img* ]]
  kill "$peer"
  wait "$peer" || true
  serve d --image t.img
  run qemu-img resize -f raw t.img 2M
  assert_failure
  assert_output --partial 'Failed to get'
  run qemu-io -f raw -c 'write 0 512' t.img
  assert_failure
  assert_output --partial 'Failed to get'
  ok pv-disk close d
  run qemu-img resize -f raw t.img 2M
  assert_success
}

@test "a qcow2 in use by qemu-nbd is refused too, and ours for qemu-img" {
  qemu-img create -q -f qcow2 t.qcow2 1M
  serve d --image t.qcow2
  run qemu-img check t.qcow2
  assert_failure
  assert_output --partial 'Failed to get'
  expect_error in_use 4 pv-disk serve e --image t.qcow2
}

@test "layers that do not exist, and keys that they do not have" {
  expect_error usage 2 pv-disk serve d --scratch 1M --layer nosuch
  has '.error.valid | index("delay") != null and index("throttle") != null'
  expect_error usage 2 pv-disk serve d --scratch 1M --layer delay:sm=5
  has '.error.valid | index("ms") != null'
  local spec
  for spec in delay delay:ms delay:ms=x delay:ms=-1 delay:ms=1,ms=2 delay:ms=1,ops=reed fault:x=1 \
    '' : ':ms=1' 'delay:=5' 'delay:ms=1,'; do
    expect_error usage 2 pv-disk serve d --scratch 1M "--layer=$spec"
    nothing_left
  done
}

@test "a serial that a guest would see cut is refused" {
  expect_error invalid 4 pv-disk serve d --scratch 1M --serial 123456789012345678901
  serve d --scratch 1M --serial 12345678901234567890
}

@test "detach of a disk that is in no VM says so" {
  serve d --scratch 1M
  expect_error wrong_state 4 pv-disk detach d
  ok pv-disk read d
}

@test "attach without a VM says which are known" {
  expect_error no_such_vm 4 pv-disk attach nosuch --scratch 1M
  expect_error bad_document 3 pv-disk attach --scratch 1M
}
