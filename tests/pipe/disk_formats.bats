#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, images other than raw lose data or a guest can make us open its own data as an
# image format (rows A4, A32).

load helper
setup() { pv_setup; }
teardown() { pv_teardown; }

# round_trip FORMAT FILE: written through us without a flush, closed, read back by qemu-img.
round_trip() {
  local format=$1 file=$2
  qemu-img create -q -f "$format" "$file" 16M
  random_file data.bin 262144
  serve d --image "$file"
  ok pv-disk info d
  has ".disk.source.format == \"$format\" and .disk.state == \"serving\""
  ok pv-disk write d --sector 64 --from data.bin
  pv-disk read d --sector 64 --count 512 --raw | cmp - data.bin
  ok pv-disk close d
  run qemu-img check -f "$format" "$file"
  [[ $output == *'does not support checks'* ]] || assert_success
  qemu-img convert -f "$format" -O raw "$file" out.raw
  dd if=out.raw bs=512 skip=64 count=512 status=none | cmp - data.bin
}

@test "qcow2: what was written is in the image after close" { round_trip qcow2 t.qcow2; }
@test "vhdx: what was written is in the image after close" { round_trip vhdx t.vhdx; }
@test "vmdk: what was written is in the image after close" { round_trip vmdk t.vmdk; }
@test "vdi: what was written is in the image after close" { round_trip vdi t.vdi; }
@test "vpc: what was written is in the image after close" { round_trip vpc t.vhd; }

@test "qcow2: nbdcopy, discard, zeroes and the map go through" {
  qemu-img create -q -f qcow2 t.qcow2 8M
  serve d --image t.qcow2
  random_file data.bin 1048576
  truncate -s 8M data.bin
  ok nbdcopy data.bin "$(uri d)"
  run qio d 'write -z -u 0 512k' 'discard 512k 256k' flush 'read -P 0 0 512k'
  assert_success
  refute_output --partial 'failed'
  ok nbdinfo --map --totals --json "$(uri d)"
  has 'map(.size) | add == 8388608'
}

@test "qcow2: a fault is seen by the client and clears" {
  qemu-img create -q -f qcow2 t.qcow2 1M
  serve d --image t.qcow2
  ok pv-fault add --disk d eio_read
  run qio d 'read 0 512'
  assert_output --partial 'Input/output error'
  ok pv-fault clear --disk d
  run qio d 'read -P 0 0 512'
  assert_success
}

@test "an extension in capitals counts as well" {
  qemu-img create -q -f qcow2 T.QCOW2 1M
  serve d --image T.QCOW2
  ok pv-disk size d
  has '.disk.size_bytes == 1048576'
}

@test "a raw file that looks like qcow2 is refused with a hint, never probed" {
  qemu-img create -q -f qcow2 sneaky.img 1M
  truncate -s %4096 sneaky.img
  expect_error invalid 4 pv-disk serve d --image sneaky.img
  assert [ "$(jq -r .error.message <<<"$output" | grep -c -- '--format qcow2')" = 1 ]
  serve raw --image sneaky.img --format raw
  ok pv-disk size raw
  has ".disk.size_bytes == $(stat -c %s sneaky.img)"
  ok pv-disk close raw
  serve q --image sneaky.img --format qcow2
  ok pv-disk size q
  has '.disk.size_bytes == 1048576'
}

@test "a guest that writes a qcow2 header into its raw disk gets no other disk" {
  qemu-img create -q -f qcow2 header.qcow2 1G
  truncate -s 1M guest.raw
  serve d --image guest.raw
  head -c 65536 header.qcow2 | pv-disk write d --sector 0
  ok pv-disk close d
  expect_error invalid 4 pv-disk serve d --image guest.raw
  ok pv-disk list
  assert_output ''
}

@test "a file named .qcow2 that is none is refused" {
  truncate -s 1M t.qcow2
  expect_error invalid 4 pv-disk serve d --image t.qcow2
  expect_error invalid 4 pv-disk serve d --image t.qcow2 --format qcow2
}

@test "a damaged qcow2 is refused with QEMU's reason" {
  qemu-img create -q -f qcow2 t.qcow2 1M
  printf '\xff\xff\xff\xff' | dd of=t.qcow2 bs=1 seek=4 conv=notrunc status=none
  expect_error invalid 4 pv-disk serve d --image t.qcow2
  assert_stderr_names version
}

assert_stderr_names() { grep -qi -- "$1" <<<"$stderr" || fail "stderr lacks '$1': $stderr"; }

@test "an unknown format lists the known ones" {
  truncate -s 1M t.img
  expect_error usage 2 pv-disk serve d --image t.img --format zip
  has '.error.valid | index("raw") != null and index("qcow2") != null'
}

@test "without qemu-storage-daemon raw works and qcow2 says what is missing" {
  qemu-img create -q -f qcow2 t.qcow2 1M
  PV_QSD=/nonexistent/qsd expect_error unavailable 7 pv-disk serve d --image t.qcow2
  truncate -s 1M t.img
  PV_QSD=/nonexistent/qsd serve d --image t.img
}

@test "qemu-storage-daemon killed: another takes its place, and a flush tells what may be lost" {
  qemu-img create -q -f qcow2 t.qcow2 1M
  serve d --image t.qcow2
  printf 'safe' | pv-disk write d --fua >/dev/null
  printf 'maybe' | pv-disk write d --sector 64 >/dev/null
  kill -KILL "$(pv-disk info d -o backend.pid)"
  # A request that is on its way when the daemon goes fails; this one is to come after that.
  restarted() { [ "$(pv-disk info d -o backend.restarts)" = 1 ]; }
  until_true restarted
  assert_equal "$(pv-disk read d --raw | head -c 4)" safe
  expect_error io 4 pv-disk flush d
  has '.error.errno == "EIO" and .error.injected == false'
  ok pv-disk flush d
  ok pv-disk info d
  has '.disk.backend | .connected and .restarts == 1 and .unflushed_losses == 1'
  ok pv-disk close d
}

@test "pv-disk create makes each format that qemu-img then recognises" {
  local format
  for format in raw qcow2 vmdk vhdx vdi; do
    ok pv-disk create "t.$format" --size 2M --format "$format"
    has ".disk.state == \"created\" and .disk.source.format == \"$format\""
    run qemu-img info --output=json -f "$format" "t.$format"
    has '."virtual-size" == 2097152'
  done
}

@test "a template in qcow2 is copied, the original stays as it was" {
  qemu-img create -q -f qcow2 base.qcow2 1M
  qemu-io -f qcow2 -c 'write -P 5 0 64k' base.qcow2 >/dev/null
  local before
  before=$(sha256sum base.qcow2)
  serve d --template base.qcow2
  run qio d 'read -P 5 0 64k' 'write -P 6 0 64k' flush 'read -P 6 0 64k'
  assert_success
  ok pv-disk close d
  assert_equal "$(sha256sum base.qcow2)" "$before"
}

# If this fails, a slip writes over an overlay, a history or a log.
@test "files of our own are no disks, unless that is said" {
  truncate -s 1M t.img
  serve d --image t.img --layer history:file=h --layer record:file=l --layer cow:file=o
  printf x | pv-disk write d
  ok pv-disk close d
  for file in h l o; do
    cp $file before
    expect_error invalid 4 pv-disk serve e --image $file
    [[ $stderr == *'--format raw'* ]]
    expect_error invalid 4 pv-verify fill $file
    cmp $file before
  done
  serve e --image o --format raw
}
