#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a VM whose power is cut keeps what it had not flushed, loses what it had, or does
# not boot again with its disks.

load helper
setup() { pv_setup; need_guest; }
teardown() { pv_teardown; }

# fill DEVICE LETTER BLOCK DD_FLAG…: 64 KiB of a letter from block 16 * BLOCK on, inside the guest.
fill() {
  pv-vm run v --raw -- sh -c "tr '\\0' $2 </dev/zero |
    dd of=/dev/$1 bs=4k count=16 seek=$(($3 * 16)) iflag=fullblock ${*:4} 2>/dev/null"
}

# letters DEVICE: the first letter of each 64 KiB, as the guest reads them; '.' for zeroes.
letters() {
  pv-vm run v --raw -- sh -c "for i in 0 1 2 3; do
    dd if=/dev/$1 bs=64k skip=\$i count=1 iflag=direct 2>/dev/null | head -c 1 | tr '\\0' .; done"
}

# two_disks: in a VM that runs.
two_disks() {
  truncate -s 4M a.img b.img
  guest_vm v
  pv-disk attach v --id vda --image a.img --layer cache >/dev/null
  pv-disk attach v --id vdb --image b.img --layer cache >/dev/null
}

@test "after a cut the VM boots again and sees exactly what it had flushed" {
  two_disks
  fill vda A 0 oflag=direct
  fill vdb B 0 oflag=direct
  fill vda S 1 conv=fsync
  fill vda U 2 oflag=direct
  fill vdb U 1 oflag=direct
  fill vda O 1 oflag=direct
  ok pv-fault power-cut v
  has '.vm.state == "shutdown" and .vm.reason == "its power was cut"'
  assert_equal "$(jq -c '[.power_cut[] | [.id, .dropped_bytes, .kept_bytes]]' <<<"$output")" \
    '[["vda",131072,0],["vdb",131072,0]]'
  expect_error wrong_state 4 pv-fault power-cut v
  assert_equal "$(jq -c '[.error.state, .error.allowed]' <<<"$output")" \
    '["shutdown",["booted","paused"]]'
  expect_error wrong_state 255 pv-vm run v -- true
  expect_error boot_timeout 6 pv-vm boot v --timeout 20ms
  ok pv-vm info v -o state
  assert_output shutdown
  ok pv-vm boot v -o state
  assert_output booted
  assert_equal "$(letters vda)" AS..
  assert_equal "$(letters vdb)" ....
  # The second life is a whole one: it can be cut too, this time without a loss.
  fill vdb Z 3 oflag=direct
  ok pv-fault power-cut v --survivors listed --keep vdb:192k+64k
  pv-vm boot v >/dev/null
  assert_equal "$(letters vdb)" ...Z
}

@test "a cut while the guest writes: whatever it was told to be on the disk is there" {
  two_disks
  pv-vm run v --raw --timeout 60s -- sh -c '
    i=1; while :; do echo $i | dd of=/dev/vda bs=512 count=1 conv=sync,fsync 2>/dev/null
      echo $i; echo $i | dd of=/dev/vdb bs=512 count=1 conv=sync,fsync 2>/dev/null
      i=$((i + 1)); done' >said 2>/dev/null &
  writer=$!
  pv-vm run v --raw --timeout 60s -- sh -c \
    'while :; do dd if=/dev/zero of=/dev/vda bs=64k seek=16 count=32 oflag=direct; done' \
    >/dev/null 2>&1 &
  noise=$!
  written() { [ "$(pv-disk stats vdb -o stats.flush.completed </dev/null)" -gt 20 ]; }
  until_true written
  ok pv-fault power-cut v --survivors random --seed 5
  run wait "$writer"
  run wait "$noise"
  count() { head -c 20 "$1" | tr -d '\0' | head -n 1; }
  pv-disk read vda --offset 0 --length 512 --raw </dev/null >a
  pv-disk read vdb --offset 0 --length 512 --raw </dev/null >b
  echo "vda $(count a), vdb $(count b)"
  # The second disk follows the first: equal, or one behind. vda's newest may have survived by luck.
  ((20 < $(count b) && $(count b) <= $(count a) && $(count a) <= $(count b) + 1))
  ok pv-vm boot v -o state
  pv-vm run v --raw -- sh -c 'head -c 20 /dev/vdb | tr -d "\0" | head -n 1' >guest
  assert_equal "$(cat guest)" "$(count b)"
}

@test "the VM comes from the document, and a running VM's disk is not cut alone" {
  truncate -s 1M t.img
  guest_vm v
  pv-disk attach v --id vda --image t.img --layer cache >doc
  expect_error wrong_state 4 pv-fault power-cut --disk vda
  assert_equal "$(jq -r .error.state <<<"$output")" booted
  ok pv-fault power-cut --in doc --survivors all
  has '.vm.state == "shutdown" and .disk.id == "vda" and (.power_cut | length) == 1'
  ok pv-fault power-cut --disk vda
}

@test "a VM with a disk that cannot be cut goes on" {
  two_disks
  truncate -s 1M c.img
  pv-disk attach v --id vdc --image c.img --no-fault >/dev/null
  fill vda U 0 oflag=direct
  expect_error not_mediated 4 pv-fault power-cut v
  ok pv-disk detach vdc
  expect_error out_of_range 4 pv-fault power-cut v --survivors listed --keep vda:4M+512
  assert_equal "$(letters vda)" U...
  ok pv-fault power-cut v
  has '[.power_cut[].id] == ["vda", "vdb"]'
}

@test "a drive that QEMU opened itself is refused" {
  truncate -s 1M own.img
  bare_profile
  pv-vm create v --profile bare --qemu-arg -drive --qemu-arg if=virtio,file=own.img,format=raw >/dev/null
  pv-vm boot v >/dev/null
  expect_error not_mediated 4 pv-fault power-cut v
  ok pv-vm info v -o state
  assert_output booted
}

@test "a VM that powers itself off boots again with its disks" {
  two_disks
  fill vda P 0 conv=fsync
  pv-vm run v -- sh -c 'poweroff -f' >/dev/null 2>&1 || true
  ok pv-vm wait v --state shutdown,dead
  ok pv-vm boot v -o state
  assert_output booted
  assert_equal "$(letters vda)" P...
}

@test "two cuts of one VM at once: one cuts, the other finds it shut down" {
  two_disks
  pv-fault power-cut v </dev/null >one 2>/dev/null &
  first=$!
  pv-fault power-cut v </dev/null >two 2>/dev/null || true
  wait "$first" || true
  assert_equal "$(cat one two | jq -s '[.[] | select(.power_cut)] | length')" 1
  assert_equal "$(cat one two | jq -r '.error | select(.) | .code + " " + .state')" \
    'wrong_state shutdown'
}
