#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a lie of a disk does to a guest's ext4 less than it says, or an honest disk does harm.

load helper
setup() { pv_setup; need_guest; }
teardown() { pv_teardown; }

guest() { pv-vm run v --raw --timeout 60s -- sh -c "$1"; }

# inode_table IMAGE: a range of inodes of the first group, 17 and up: a few new ones stay.
inode_table() {
  dumpe2fs "$1" 2>/dev/null |
    awk '/Inode table at/ { split($4, at, "-"); print at[1] * 1024 + 4096 "+16k"; exit }'
}

@test "writes that are dropped under a mounted ext4 are found by e2fsck, on an honest disk there are none" {
  local d
  guest_vm v
  for d in vda vdb vdc; do
    truncate -s 8M $d.img
    mkfs.ext4 -q -b 1024 -F $d.img
    pv-disk attach v --id $d --image $d.img </dev/null >/dev/null
  done
  # Once they are mounted, one loses new inodes, one some of all writes; the last is honest.
  ok pv-fault add --disk vda drop_write --since mounted --range "$(inode_table vda.img)"
  ok pv-fault add --disk vdb drop_write --since mounted --probability 0.7 --seed 7
  ok guest 'for d in vda vdb vdc; do mkdir -p /m/$d && mount /dev/$d /m/$d || exit 9; done'
  for d in vda vdb; do ok pv-fault mark mounted --disk $d; done
  ok guest 'for d in vda vdb vdc; do
      for n in 1 2 3; do mkdir /m/$d/$n && seq 3000 >/m/$d/$n/a && seq 99 >/m/$d/$n/b; done
      umount /m/$d || exit 8
    done'
  for d in vda vdb; do ok pv-fault assert --disk $d; done
  pv-vm close v </dev/null >/dev/null
  run e2fsck -fn vdc.img
  assert_success
  for d in vda vdb; do
    run e2fsck -fn $d.img
    echo "$output"
    assert_equal "$status" 4
  done
}

@test "a power cut loses what fsync promised on a disk that lies about flushes, and nothing on another" {
  run "$BATS_TEST_DIRNAME/../crash/fsync" --cuts 2 --jobs 1
  echo "$output"
  assert_success
  assert_line --regexp '^honest: 2 cuts, files 8 whole, 0 lost, 0 wrong'
  assert_line --regexp '^lying: 2 cuts, files 0 whole, 8 lost, 0 wrong'
}
