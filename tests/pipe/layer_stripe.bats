#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a striped disk does not hold its data where other tools would look for it, or takes
# members that cannot be striped.

load helper
setup() { pv_setup; }
teardown() { pv_teardown; }

@test "what qemu-io writes lies in the members chunk by chunk" {
  truncate -s 1M a.img b.img c.img
  serve s --image a.img --layer stripe:with=b.img+c.img,chunk=64K
  run nbdinfo --size "$(uri s)"
  assert_output 3145728
  random_file all 3M
  nbdcopy all "$(uri s)"
  pv-disk close s
  for i in 0 1 2; do
    for j in 0 1 2; do
      member=$(echo a b c | cut -d' ' -f$((i + 1)))
      cmp <(tail -c +$(((3 * j + i) * 65536 + 1)) all | head -c 65536) \
        <(tail -c +$((j * 65536 + 1)) "$member.img" | head -c 65536)
    done
  done
}

@test "members in another format are striped as well and read back whole" {
  qemu-img create -q -f qcow2 a.qcow2 2M
  qemu-img create -q -f qcow2 b.qcow2 2M
  serve s --image a.qcow2 --layer stripe:with=b.qcow2
  random_file all 4M
  nbdcopy all "$(uri s)"
  nbdcopy "$(uri s)" back
  cmp all back
  pv-disk close s
  serve s --image a.qcow2 --read-only --layer stripe:with=b.qcow2
  nbdcopy "$(uri s)" again
  cmp all again
}

@test "holes of the members are holes of the stripe" {
  truncate -s 4M a.img b.img
  serve s --image a.img --layer stripe:with=b.img
  qio s 'write 128k 128k' >/dev/null
  run bash -c "nbdinfo --map --json '$(uri s)' | jq -c 'map([.offset, .length, .type])'"
  assert_output '[[0,131072,3],[131072,131072,0],[262144,8126464,3]]'
}

@test "members that cannot be striped are refused by name" {
  truncate -s 1M a.img
  truncate -s 2M b.img
  expect_error invalid 4 pv-disk serve s --image a.img --layer stripe:with=b.img
  assert_output --partial 'members that differ'
  assert_output --partial 'b.img'
  expect_error no_image 4 pv-disk serve s --image a.img --layer stripe:with=nosuch.img
  expect_error in_use 4 pv-disk serve s --image a.img --layer stripe:with=a.img
  expect_error usage 2 pv-disk serve s --image a.img --layer stripe
  expect_error usage 2 pv-disk serve s --image a.img --layer stripe:with=b.img,chunk=100
  truncate -s 1M 'a+b.img'
  ok pv-disk serve s --image a.img --layer stripe:with=a++b.img
}
