#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, our NBD server does not speak with the tools that people use: nbdinfo, nbdcopy,
# qemu-io, qemu-img, fio. All of them were written by others, so they are the judges here.

load helper
setup() { pv_setup; }
teardown() { pv_teardown; }

@test "nbdinfo sees the size, the flags and the block sizes" {
  serve d --scratch 8M
  ok nbdinfo --json "$(uri d)"
  has '.protocol == "newstyle-fixed" and (.TLS | not) and .structured'
  has '.exports[0] | ."export-size" == 8388608 and .is_read_only == false'
  has '.exports[0] | .can_flush and .can_fua and .can_trim and .can_zero and .can_multi_conn'
  has '.exports[0] | .can_df and .can_cache and .block_size_minimum == 512'
  has '.exports[0].contexts | index("base:allocation") != null'
}

@test "nbdinfo lists the export under the disk's name" {
  serve d --scratch 1M
  ok nbdinfo --list --json "$(uri d)"
  has '[.exports[]."export-name"] == ["d"]'
}

@test "an export name that is not ours is refused, ours and the empty one are let in" {
  serve d --scratch 1M
  run nbdinfo --size "nbd+unix:///other?socket=$(sock d)"
  assert_failure
  ok nbdinfo --size "nbd+unix:///d?socket=$(sock d)"
  assert_output 1048576
  ok nbdinfo --size "$(uri d)"
}

@test "nbdinfo --map tells data from holes truthfully" {
  truncate -s 4M t.img
  dd if=/dev/urandom of=t.img bs=64k seek=16 count=2 conv=notrunc status=none
  serve d --image t.img
  ok nbdinfo --map --json "$(uri d)"
  has 'map(.length) | add == 4194304'
  has 'map(select(.type == 0)) | length == 1 and .[0].offset == 1048576 and .[0].length == 131072'
  has 'map(select(.type == 3)) | map(.length) | add == 4194304 - 131072'
}

@test "nbdcopy takes an image out byte by byte the same" {
  random_file t.img 5242880
  serve d --image t.img
  ok nbdcopy "$(uri d)" out.img
  cmp t.img out.img
}

@test "nbdcopy puts an image in byte by byte the same" {
  random_file t.img 5242880
  serve d --scratch 5M
  ok nbdcopy t.img "$(uri d)"
  ok pv-disk flush d
  pv-disk read d --count 10240 --raw | cmp - t.img
}

@test "nbdcopy between two of our servers copies the data" {
  random_file t.img 3145728
  serve a --image t.img --read-only
  serve b --memory 3M
  ok nbdcopy "$(uri a)" "$(uri b)"
  pv-disk read b --count 6144 --raw | cmp - t.img
}

@test "qemu-io writes a pattern and reads it back, also across segments" {
  serve d --scratch 8M
  run qio d 'write -P 0xa5 4k 1M' 'read -P 0xa5 4k 1M' 'read -P 0 0 4k' \
    'writev -P 0x5a 2M 4k 8k 512' 'readv -P 0x5a 2M 512 4k 8k' 'flush'
  assert_success
  refute_output --partial 'failed'
}

@test "qemu-io discard gives the blocks back and they read as zeroes" {
  truncate -s 4M t.img
  serve d --image t.img
  run qio d 'write -P 1 0 4M' 'discard 1M 1M' 'read -P 0 1M 1M' 'read -P 1 0 1M' \
    'read -P 1 2M 2M' flush
  assert_success
  refute_output --partial 'failed'
  assert [ "$(du --block-size=1K t.img | cut -f1)" -le 3100 ]
}

@test "qemu-io write zeroes works with and without unmap" {
  serve d --scratch 4M
  run qio d 'write -P 7 0 2M' 'write -z 512k 512k' 'write -z -u 1M 512k' 'read -P 0 512k 1M' \
    'read -P 7 0 512k' 'read -P 7 1536k 512k'
  assert_success
  refute_output --partial 'failed'
}

@test "zeroes that must stay allocated are, those that may be unmapped are not" {
  truncate -s 2M t.img
  serve d --image t.img
  run qio d 'write -P 1 0 2M' 'write -z 0 1M' 'write -z -u 1M 1M' flush
  assert_success
  # SEEK_HOLE calls allocated zeroes a hole, so the blocks of the file are asked.
  assert [ "$(du --block-size=1K t.img | cut -f1)" -ge 1024 ]
  assert [ "$(du --block-size=1K t.img | cut -f1)" -lt 1100 ]
  cmp -n 2097152 t.img /dev/zero
}

@test "write with FUA is answered and is in the image" {
  truncate -s 1M t.img
  serve d --image t.img
  run qio d 'write -f -P 9 4k 4k' 'write -z -f 8k 4k'
  assert_success
  run qemu-io -r -U -f raw -c 'read -P 9 4k 4k' t.img
  assert_success
}

@test "qemu-img compare finds our export equal to its image, then finds the changed byte" {
  random_file t.img 2097152
  cp t.img copy.img
  serve d --image t.img
  run qemu-img compare -f raw -F raw copy.img "$(uri d)"
  assert_success
  assert_output 'Images are identical.'
  printf changed. | pv-disk write d --offset 1000000
  run qemu-img compare -f raw -F raw copy.img "$(uri d)"
  assert_failure 1
}

@test "qemu-img convert reads our export into qcow2" {
  random_file t.img 2097152
  serve d --image t.img
  ok qemu-img convert -f raw -O qcow2 "$(uri d)" out.qcow2
  run qemu-img compare -f qcow2 -F raw out.qcow2 "$(uri d)"
  assert_success
}

@test "qemu-img convert writes an image into our export" {
  random_file t.img 2097152
  qemu-img convert -f raw -O qcow2 t.img t.qcow2
  serve d --scratch 2M
  ok qemu-img convert -n -f qcow2 -O raw t.qcow2 "$(uri d)"
  run qemu-img compare -f raw -F raw t.img "$(uri d)"
  assert_success
}

@test "fio writes and verifies checksums through our server, in deep queues" {
  serve d --scratch 16M
  run fio --name=t --ioengine=nbd --uri="$(uri d)" --rw=randwrite --bs=4k-64k --bs_unaligned=0 \
    --size=16M --iodepth=32 --verify=crc32c --do_verify=1 --verify_fatal=1 --randseed=7 \
    --output-format=json
  assert_success
  assert [ "$(jq -r '.jobs[0].error' <<<"$(sed -n '/^{/,$p' <<<"$output")")" = 0 ]
}

@test "two clients at once see one disk" {
  serve d --scratch 8M
  qio d 'write -P 1 0 4M' >a.log 2>&1 &
  local first=$!
  qio d 'write -P 2 4M 4M' >b.log 2>&1
  wait "$first"
  run qio d 'read -P 1 0 4M' 'read -P 2 4M 4M'
  assert_success
  refute_output --partial 'failed'
  assert [ "$(cat a.log b.log | grep -c 'wrote 4194304')" = 2 ]
}

@test "what one client has flushed the other reads at once" {
  serve d --scratch 1M
  # The second qemu-io runs while the first one still holds its connection.
  run qio d 'write -P 3 0 4k' flush
  assert_success
  coproc held { qemu-io -f raw "$(uri d)"; }
  local in=${held[1]} pid=$held_PID
  echo 'write -P 4 0 4k' >&"$in"
  until_true bash -c \
    "pv-disk stats d </dev/null | jq -e '.disk.stats.write.completed == 2' >/dev/null"
  run qio d 'read -P 4 0 4k'
  assert_success
  refute_output --partial 'failed'
  echo quit >&"$in"
  wait "$pid"
}

@test "requests that are not whole sectors are refused over NBD, and the connection lives" {
  serve d --scratch 1M --sector-size 4096
  ok nbdinfo --json "$(uri d)"
  has '.exports[0].block_size_minimum == 4096'
  run qio d 'write -P 1 0 8k' 'read -P 1 4k 4k'
  assert_success
}

@test "a thread pool serves where io_uring may not be used" {
  random_file t.img 4194304
  PV_NO_IO_URING=1 serve d --image t.img
  ok pv-disk stats d
  has '.disk.stats.layers.backend.async == "threads"'
  ok nbdcopy "$(uri d)" out.img
  cmp t.img out.img
  run qio d 'write -f -P 1 0 64k' 'discard 64k 64k' flush 'read -P 1 0 64k' 'read -P 0 64k 64k'
  assert_success
  refute_output --partial 'failed'
}
