#!/usr/bin/env bats
# CD drives: the guest reads the disc, and finds none after an eject.

load helper

setup() { pv_setup; need_guest; }
teardown() { pv_teardown; }

guest() { pv-vm run v --raw --timeout 60s -- sh -c "$1"; }

# row D20
@test "a disc is read by the guest, ejected, and the drive stays empty" {
  random_file cd.iso 2097152
  pv-vm create v | pv-disk attach --id cd --cdrom --image cd.iso >info
  has '.disk | .cdrom and .medium and .read_only and .sector_size == 2048' "$(cat info)"
  pv-disk attach v --id vda --memory 1M >/dev/null
  pv-vm boot v >/dev/null
  run -0 guest 'cat /sys/block/sr0/queue/logical_block_size; md5sum </dev/sr0 | cut -c1-32'
  assert_line --index 0 2048
  assert_line --index 1 "$(md5sum <cd.iso | cut -c1-32)"
  run -0 pv-disk eject cd -o medium
  assert_output false
  run guest 'dd if=/dev/sr0 of=/dev/null bs=2k count=1'
  [ "$status" -ne 0 ]
  assert_output --partial 'No medium found'
  # Once more is no error; other disks are.
  run -0 pv-disk eject cd -o medium
  assert_output false
  expect_error unsupported_eject 4 pv-disk eject vda
  run -0 pv-disk detach cd -o guest_released
  assert_output true
  run -0 guest 'ls /sys/block'
  assert_output vda
}

@test "a disc is plugged into a running guest; a locked tray opens only with --force" {
  random_file cd.iso 1048576
  guest_vm v
  run -0 pv-disk attach v --id cd --cdrom --image cd.iso -o guest_path
  assert_output /dev/sr0
  run -0 guest 'md5sum </dev/sr0 | cut -c1-32'
  assert_output "$(md5sum <cd.iso | cut -c1-32)"
  guest 'sleep 60 </dev/sr0 >/dev/null 2>&1 & for i in 1 2 3 4 5 6 7 8 9; do usleep 50000; done'
  expect_error wrong_state 4 pv-disk eject cd
  run -0 pv-disk info cd -o medium
  assert_output true
  run -0 pv-disk eject cd --force -o medium
  assert_output false
}

@test "a disc that was ejected before the boot is not there; what is no disc is refused" {
  random_file cd.iso 1048576
  pv-vm create v | pv-disk attach --id cd --cdrom --image cd.iso >/dev/null
  run -0 pv-disk eject cd -o medium
  assert_output false
  pv-vm boot v >/dev/null
  run guest 'dd if=/dev/sr0 of=/dev/null bs=2k count=1'
  [ "$status" -ne 0 ]
  assert_output --partial 'No medium found'
  expect_error read_only 4 pv-disk resize cd 4M
  run -0 pv-disk detach cd -o guest_released
  assert_output true
  truncate -s 1000 odd.iso
  expect_error invalid 4 pv-disk attach v --id odd --cdrom --image odd.iso
  expect_error usage 2 pv-disk attach v --id odd --cdrom --image cd.iso --sector-size 512
}
