#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a guest on a mirrored disk gives false alarms, or is not stopped when it should be.

load helper
setup() {
  pv_setup
  need_guest
}
teardown() { pv_teardown; }

@test "a file system on mirror(qcow2, raw) under load raises no alarm, and the legs are equal" {
  # Clusters as small as blocks: what is discarded is discarded whole, and reads as zeroes in both.
  qemu-img create -q -f qcow2 -o cluster_size=4k test.qcow2 64M
  truncate -s 64M ref.img fs.img
  mkfs.ext4 -q -b 4096 -F fs.img
  pv-vm create v | pv-verify mirror --test test.qcow2 --reference ref.img |
    pv-disk attach --id vda >/dev/null
  nbdcopy fs.img "$(uri v/vda)"
  pv-vm boot v </dev/null >/dev/null
  run pv-vm run v --raw -- sh -c '
    set -e
    mkdir -p /m && mount -t ext4 -o discard /dev/vda /m
    for i in 1 2 3 4 5 6 7 8; do
      head -c $((i * 300000)) /dev/urandom > /m/f$i
      cp /m/f$i /m/g$i && rm -f /m/g$((i - 2)) && sync
      dd if=/m/f$i of=/m/f1 bs=1000 count=100 seek=$((i * 7)) conv=notrunc 2>/dev/null
    done
    rm /m/f7 /m/f6 && sync
    fstrim /m && echo trimmed
    cmp /m/f8 /m/g8
    umount /m && echo fine' </dev/null
  assert_output --partial fine
  assert_output --partial trimmed
  ok pv-verify findings --disk v/vda </dev/null
  has '.summary.good and .summary.mismatches == 0'
  run bash -c "pv-disk stats v/vda </dev/null | jq '.disk.stats.discard.completed > 0'"
  assert_output true
  pv-vm close v </dev/null >/dev/null
  run qemu-img compare -f qcow2 -F raw test.qcow2 ref.img
  assert_success
}

@test "stop_vm pauses the guest at the mismatch, which then goes on" {
  truncate -s 16M ref.img
  cp ref.img test.img
  head -c 4096 /dev/zero | tr '\0' x | dd of=test.img bs=4k seek=100 conv=notrunc status=none
  pv-vm create v | pv-verify mirror --test test.img --reference ref.img --assume-identical \
    --on-mismatch stop_vm | pv-disk attach --id vda | pv-vm boot >/dev/null
  run pv-vm run v --timeout 5s -- dd if=/dev/vda of=/dev/null bs=4k count=1 skip=100 </dev/null
  [ "$status" -ne 0 ] # it stands still
  until_true bash -c '[ "$(pv-vm info v -o state </dev/null)" = paused ]'
  run bash -c "pv-verify findings --disk v/vda </dev/null | jq -c 'select(.finding).finding |
    select(.kind == \"stop\") | [.vm, .error]'"
  assert_output '["v",null]'
  pv-vm resume v </dev/null >/dev/null
  ok pv-vm run v -- true </dev/null
}
