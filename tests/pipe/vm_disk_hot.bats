#!/usr/bin/env bats
# Disks that come and go under one running guest: plugged in, written to, trimmed, reserved. One VM
# for the file, with other disks for each test.

load helper
load helper_shared
teardown() { unplug_all; }

# row A1: attach to a running guest gives it a disk that it can use
@test "a disk attached to a running guest is there when attach returns, and detach takes it out" {
  head -c 1048576 /dev/urandom >t.img
  run -0 pv-disk attach v --id hot --image t.img -o guest_path
  assert_output /dev/vda
  run -0 pv-vm run v --raw -- sh -c 'md5sum </dev/vda'
  assert_output --partial "$(md5sum <t.img | cut -c1-32)"
  run -0 pv-disk detach hot
  assert_equal "$(jq -r '.disk | "\(.state) \(.guest_released)"' <<<"$output")" "detached true"
  run -0 pv-vm run v --raw -- sh -c 'ls /sys/block | grep -c vd || true'
  assert_output 0
  # row A30: the handle stays dead, a new attach with the same id is a new disk
  run -4 --separate-stderr pv-disk read hot
  assert_equal "$(jq -r .error.code <<<"$output")" detached
  run -0 pv-disk attach v --id hot --image t.img -o state
  assert_output attached
}

@test "writes of the guest are in the image after sync, whatever its format" {
  qemu-img create -q -f qcow2 t.qcow2 8M
  plug vda --image t.qcow2
  pv-vm run v --raw -- sh -c 'seq 1 100000 | dd of=/dev/vda bs=64k conv=fsync 2>/dev/null'
  pv-disk detach vda >/dev/null
  run -0 qemu-img check -q t.qcow2
  qemu-img convert -f qcow2 -O raw t.qcow2 t.raw
  seq 1 100000 >want
  run -0 cmp -n "$(stat -c %s want)" want t.raw
}

@test "discard of the guest gives the space back to the image" {
  head -c 4M /dev/urandom >t.img
  plug vda --image t.img
  pv-vm run v --raw -- blkdiscard /dev/vda
  pv-disk flush vda >/dev/null
  [ "$(stat -c %b t.img)" -lt 64 ]
}

@test "a guest is the host that its disk was attached for" {
  plug vda --memory 1M --host-key guest --layer reserve
  pv-disk reserve register vda --host-key other --new-key 1 </dev/null >/dev/null
  pv-disk reserve reserve vda --host-key other --key 1 --type exclusive_access </dev/null >/dev/null
  run pv-vm run v --raw -- dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct
  [ "$status" -ne 0 ]
  pv-disk reserve register vda --host-key guest --new-key 2 </dev/null >/dev/null
  pv-disk reserve preempt vda --host-key guest --key 2 --new-key 1 --type exclusive_access \
    </dev/null >/dev/null
  pv-vm run v --raw -- dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct
}
