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
  qemu-img create -q -f qcow2 test.qcow2 64M
  truncate -s 64M ref.img
  pv-vm create v | pv-verify mirror --test test.qcow2 --reference ref.img |
    pv-disk attach --id vda | pv-vm boot >/dev/null
  run pv-vm run v --raw -- sh -c '
    set -e
    mkfs.ext4 -q /dev/vda && mkdir -p /m && mount /dev/vda /m
    for i in 1 2 3 4 5 6 7 8; do
      head -c $((i * 300000)) /dev/urandom > /m/f$i
      cp /m/f$i /m/g$i && rm -f /m/g$((i - 2)) && sync
      dd if=/m/f$i of=/m/f1 bs=1000 count=100 seek=$((i * 7)) conv=notrunc 2>/dev/null
    done
    fstrim /m || true
    cmp /m/f8 /m/g8
    umount /m && echo fine'
  assert_output --partial fine
  ok pv-verify findings --disk v/vda </dev/null
  has '.summary.good and .summary.mismatches == 0'
  pv-vm close v </dev/null >/dev/null
  run qemu-img compare -f qcow2 -F raw test.qcow2 ref.img
  assert_success
}

@test "stop_vm pauses the guest at the mismatch, which then goes on" {
  truncate -s 16M ref.img
  head -c 16M /dev/zero | tr '\0' x >test.img
  pv-vm create v | pv-verify mirror --test test.img --reference ref.img --assume-identical \
    --on-mismatch stop_vm | pv-disk attach --id vda | pv-vm boot >/dev/null
  # The guest looks for partitions when it boots, so it may already stand still.
  pv-vm run v --timeout 3s -- dd if=/dev/vda of=/dev/null bs=4k count=1 skip=100 </dev/null || true
  until_true bash -c '[ "$(pv-vm info v -o state </dev/null)" = paused ]'
  run bash -c "pv-verify findings --disk v/vda </dev/null | jq -c 'select(.finding).finding |
    select(.kind == \"stop\") | [.vm, .error]'"
  assert_line --index 0 '["v",null]'
}
