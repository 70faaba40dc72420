#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a guest on a mirrored disk gives false alarms, or is not stopped when it should be.

load helper
setup() {
  pv_setup
  need_guest
}
teardown() { pv_teardown; }

@test "mkfs, mount, fstrim and a random load on mirror(qcow2, raw) raise no alarm; the legs are equal" {
  local extras seed=${PV_SEED:-$RANDOM}
  add_programs
  qemu-img create -q -f qcow2 test.qcow2 96M
  truncate -s 96M ref.img
  serve r --image ref.img # for its counters
  pv-vm create v "${extras[@]}" |
    pv-verify mirror --test test.qcow2 --layer stats --reference "$(uri r)" |
    pv-disk attach --id vda | pv-vm boot >/dev/null
  echo "seed $seed"
  run pv-vm run v --raw --timeout 300s -- sh -c "
    set -e
    mkfs.ext4 -q -b 4096 -E discard,lazy_itable_init=0,lazy_journal_init=0 /dev/vda
    mkdir -p /m && mount -t ext4 -o discard /dev/vda /m
    fsx /m/a --seed $seed --ops 1500 --size 2097152
    fsx /m/b --seed $seed --ops 800 --size 1048576 --direct
    cp /m/a /m/c && rm /m/a && sync
    fstrim /m && echo trimmed
    cmp /m/c /m/c
    dd if=/dev/zero of=/m/d bs=1000 count=2000 2>/dev/null && rm /m/d && sync
    umount /m && echo fine" </dev/null
  assert_success
  assert_output --partial 'fsx: /m/b'
  assert_output --partial trimmed
  assert_output --partial fine
  ok pv-verify findings --disk v/vda </dev/null
  has '.summary.good and .summary.mismatches == 0 and .summary.left_out_bytes == 0'
  # What the guest asked for, and what has reached the legs: the reference had zeroes after each
  # discard besides.
  run pv-disk stats v/vda </dev/null
  zeroes=$(jq .disk.stats.zero.completed <<<"$output")
  discards=$(jq .disk.stats.discard.completed <<<"$output")
  [ "$zeroes" -gt 0 ] && [ "$discards" -gt 0 ]
  has ".disk.stats.layers.stats | .zero.completed == $zeroes and .discard.completed == $discards"
  run pv-disk stats r </dev/null
  has ".disk.stats | .zero.completed == $((zeroes + discards)) and .discard.completed == $discards"
  pv-vm close v </dev/null >/dev/null
  pv-disk close r </dev/null >/dev/null
  run qemu-img compare -f qcow2 -F raw test.qcow2 ref.img
  assert_success
}

@test "the load finds a byte that somebody else has changed, and says so in one line" {
  "$(fsx_program)" f --seed 1 --ops 1000000000 >/dev/null 2>err &
  until ended $!; do
    head -c 4096 /dev/urandom | dd of=f bs=4096 seek=16 conv=notrunc status=none
  done
  local status=0
  wait $! || status=$?
  [ "$status" -eq 1 ]
  run cat err
  assert_output --regexp '^fsx: operation [0-9]+: (byte [0-9]+ is 0x|a read at )'
  [ "${#lines[@]}" -eq 1 ]
}

@test "stop_vm pauses the guest at the mismatch, which then goes on" {
  truncate -s 16M ref.img
  cp ref.img test.img
  head -c 4096 /dev/zero | tr '\0' x | dd of=test.img bs=4k seek=100 conv=notrunc status=none
  guest_vm v
  pv-verify mirror --test test.img --reference ref.img --assume-identical --on-mismatch stop_vm \
    </dev/null | pv-disk attach v --id vda >/dev/null
  run pv-vm run v --timeout 15s -- dd if=/dev/vda of=/dev/null bs=4k count=1 skip=100 </dev/null
  [ "$status" -ne 0 ] # it stands still
  until_true bash -c '[ "$(pv-vm info v -o state </dev/null)" = paused ]'
  run bash -c "pv-verify findings --disk v/vda </dev/null | jq -c 'select(.finding).finding |
    select(.kind == \"stop\") | [.vm, .error]'"
  assert_output '["v",null]'
  pv-vm resume v </dev/null >/dev/null
  ok pv-vm run v -- true </dev/null
}
