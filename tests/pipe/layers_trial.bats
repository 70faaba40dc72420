#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If these fail, something that a person once found by trying is back.

load helper
setup() { pv_setup; }
teardown() { pv_teardown; }

@test "an overlay notices a change of any file that its base is made of" {
  truncate -s 4M a.img b.img
  local stack=(--image a.img --layer cow:file=over --layer stripe:with=b.img)
  serve s "${stack[@]}"
  ok pv-disk close s
  serve s "${stack[@]}"
  ok pv-disk close s
  qemu-io -f raw -c 'write -P 0x99 2M 1M' b.img
  expect_error invalid 4 pv-disk serve s "${stack[@]}"
  [[ $stderr == *base* ]]
}

@test "an overlay notices a change below the overlay that it stands on, and of a backing file" {
  truncate -s 4M base.img backing.img
  serve s --image base.img --layer cow:file=up --layer cow:file=low
  ok pv-disk close s
  serve s --image base.img --layer cow:file=low
  qio s 'write -P 7 2M 1M' flush
  ok pv-disk close s
  expect_error invalid 4 pv-disk serve s --image base.img --layer cow:file=up --layer cow:file=low
  qemu-img create -q -f qcow2 -b backing.img -F raw top.qcow2
  serve q --image top.qcow2 --layer cow:file=qover
  ok pv-disk close q
  qemu-io -f raw -c 'write -P 7 2M 1M' backing.img
  expect_error invalid 4 pv-disk serve q --image top.qcow2 --layer cow:file=qover
}

@test "a template may lie on another file system than the run directory" {
  local other=/dev/shm
  [ "$(stat -fc %i .)" != "$(stat -fc %i $other)" ] || other=/var/tmp
  local image=$other/pv-template.$$
  random_file "$image" 3145728
  serve d --template "$image"
  run pv-disk read d --raw --length 3145728
  pv-disk read d --raw --length 3145728 >copy
  cmp copy "$image"
  rm "$image"
}

@test "both slots of a new overlay's header take room at once: it opens again on a full disk" {
  truncate -s 1M base.img
  serve d --image base.img --layer cow:file=over
  ok pv-disk close d
  run ! cmp -s -n 4096 over /dev/zero
  run ! cmp -s -n 4096 -i 4096:0 over /dev/zero
}

@test "close says when the cache could not be written back" {
  serve d --memory 1M --layer cache --layer fault
  ok pv-fault add --disk d eio_write
  head -c 4096 /dev/urandom | pv-disk write d >/dev/null
  expect_error io 4 pv-disk close d
  [[ $stderr == *lost* ]]
  ok pv-disk list
  assert_output ''
}

@test "stats refuses names that would hide other figures" {
  expect_error usage 2 pv-disk serve d --memory 1M --layer stats --layer stats
  expect_error usage 2 pv-disk serve d --memory 1M --layer stats:name=backend
  expect_error usage 2 pv-disk serve d --memory 1M --layer stats:name=
  expect_error usage 2 pv-disk serve d --memory 1M --layer stats:name=delay
}

@test "a stripe of several files is not said to differ from its image" {
  truncate -s 4M a.img b.img
  serve s --image a.img --layer stripe:with=b.img
  ok pv-disk size s
  has '.disk | has("image_differs") | not'
}
