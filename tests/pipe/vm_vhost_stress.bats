#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a vhost-user disk does not hold what a guest's file system puts on it.

load helper
setup() {
  pv_setup
  need_guest
}
teardown() { pv_teardown; }

@test "mkfs, a random load, fstrim, resize and unplugging: the image is what the guest read last" {
  local extras seed=${PV_SEED:-$RANDOM}
  add_programs
  truncate -s 96M t.img
  pv-vm create v "${extras[@]}" | pv-vm boot >/dev/null
  pv-disk attach v --id vda --image t.img --transport vhost-user --restart </dev/null >/dev/null
  echo "seed $seed"
  run pv-vm run v --raw --timeout 300s -- sh -c "
    set -e
    mkfs.ext4 -q -b 4096 -E lazy_itable_init=0,lazy_journal_init=0 /dev/vda
    mkdir -p /m && mount -t ext4 -o discard /dev/vda /m
    fsx /m/a --seed $seed --ops 1500 --size 2097152
    fsx /m/b --seed $seed --ops 800 --size 1048576 --direct
    cp /m/a /m/c && rm /m/a && sync
    fstrim /m && echo trimmed
    umount /m && echo fine" </dev/null
  assert_success
  assert_output --partial 'fsx: /m/b'
  assert_output --partial trimmed
  assert_output --partial fine
  ok pv-disk stats v/vda
  has '.disk.stats | .discard.completed > 0 and .flush.completed > 0 and .io_errors == 0'
  ok pv-disk resize v/vda 128M
  run pv-vm run v --raw -- sh -c 'sha256sum </dev/vda; blockdev --getsize64 /dev/vda' </dev/null
  assert_line --index 1 134217728
  seen=${lines[0]%% *}
  ok pv-disk detach v/vda
  run pv-vm run v --raw -- ls /dev/vda </dev/null
  assert_failure
  assert_equal "$(sha256sum <t.img | cut -d' ' -f1)" "$seen"
  run e2fsck -fn t.img
  assert_success
}
