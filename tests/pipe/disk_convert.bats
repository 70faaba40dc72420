#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, an image changes on its way through us: qemu-img converts one of each format onto
# every back end that can be written, and back, and what comes back must be the same.

load helper
k_size=8388608

# QEMU takes two seconds to make an encrypted image, however small: it is made once, and copied.
setup_file() {
  cd "$BATS_FILE_TMPDIR" || return 1
  printf 'a passphrase' >key
  luks_img create -q -f luks --object secret,id=k,file=key -o key-secret=k,iter-time=10 blank.luks \
    "$k_size"
}
setup() {
  pv_setup
  printf 'a passphrase' >key
}
teardown() { pv_teardown; }

k_formats=(raw qcow2 vhdx vpc vmdk vdi luks)

# make_source: data at both ends, zeroes that are written, and holes.
make_source() {
  random_file source.raw 1572864
  truncate -s "$k_size" source.raw
  dd if=/dev/zero of=source.raw bs=64k seek=32 count=8 conv=notrunc status=none
  random_file tail.bin 300032
  dd if=tail.bin of=source.raw bs=512 seek=$(((k_size - 300032) / 512)) conv=notrunc status=none
}

# node FORMAT FILE: the image for qemu-img's --image-opts.
node() {
  printf 'driver=%s,file.driver=file,file.filename=%s' "$1" "$2"
  [ "$1" != luks ] || printf ',key-secret=k'
}

# make_image FORMAT FILE [DATA]: an image of that format with this data, else blank.
make_image() {
  local format=$1 file=$2 options=()
  # vpc would round the size up to whole cylinders.
  [ "$format" != vpc ] || options=(-o force_size=on)
  if [ "$format" = luks ]; then cp "$BATS_FILE_TMPDIR/blank.luks" "$file"
  else qemu-img create -q -f "$format" "${options[@]}" "$file" "$k_size"; fi
  [ -z "${3-}" ] || qemu-img convert -n -f raw --object secret,id=k,file=key \
    --target-image-opts "$3" "$(node "$format" "$file")"
}

# onto NAME FLAG…: each format onto this disk and back.
onto() {
  local name=$1 format uri
  shift
  serve d "$@"
  uri=$(uri d)
  for format in "${k_formats[@]}"; do
    pv-disk zero d --all </dev/null >/dev/null
    qemu-img convert -n --target-is-zero --object secret,id=k,file=key \
      --image-opts "$(node "$format" "s.$format")" -O raw "$uri" || fail "$format onto $name"
    qemu-img compare -f raw -F raw source.raw "$uri" >compared ||
      fail "$format onto $name: $(cat compared)"
  done
  qemu-img convert -f raw -O qcow2 "$uri" back.qcow2
  ok pv-disk close d
  qemu-img compare -f raw -F qcow2 source.raw back.qcow2 || fail "back from $name"
  rm back.qcow2
}

@test "an image of each format onto each back end and back is the same" {
  local format
  make_source
  for format in "${k_formats[@]}"; do make_image "$format" "s.$format" source.raw; done
  truncate -s "$k_size" t.img
  onto file --image t.img
  onto scratch --scratch "$k_size"
  onto memory --memory "$k_size"
  for format in qcow2 vhdx vpc vmdk vdi luks; do
    make_image "$format" "t.$format"
    if [ "$format" = luks ]; then
      onto luks --image t.luks --key-file key
    else
      onto "$format" --image "t.$format" --format "$format"
    fi
    qemu-img compare --object secret,id=k,file=key --image-opts "$(node raw source.raw)" \
      "$(node "$format" "t.$format")" || fail "the file of $format"
  done
}

@test "onto a file past the page cache and back is the same" {
  local format
  truncate -s "$k_size" t.img
  run --separate-stderr pv-disk serve probe --image t.img --direct </dev/null
  [ "$status" -ne 4 ] || skip "$stderr"
  ok pv-disk close probe
  make_source
  for format in "${k_formats[@]}"; do make_image "$format" "s.$format" source.raw; done
  onto direct --image t.img --direct
  cmp t.img source.raw
}

@test "a fixed VHD, and the formats that are rarely met" {
  make_source
  qemu-img convert -f raw -O vpc -o subformat=fixed,force_size=on source.raw fixed.vhd
  serve d --image fixed.vhd
  qemu-img compare -f raw -F raw source.raw "$(uri d)"
  ok pv-disk close d
  local format
  for format in qed parallels; do
    qemu-img convert -f raw -O "$format" source.raw "t.$format"
    serve d --image "t.$format" --format "$format"
    qemu-img compare -f raw -F raw source.raw "$(uri d)"
    run qio d 'write -P 7 4M 64k' flush 'read -P 7 4M 64k'
    assert_success
    ok pv-disk close d
  done
}

@test "qcow2 with 4 KiB sectors tells its client so" {
  qemu-img create -q -f qcow2 t.qcow2 1M
  serve d --image t.qcow2 --sector-size 4k
  ok nbdinfo --json "$(uri d)"
  has '.exports[0].block_size_minimum == 4096'
  expect_error invalid 4 pv-disk zero d --offset 512 --length 512
  random_file data.bin 8192
  ok pv-disk write d --sector 3 --from data.bin
  pv-disk read d --sector 3 --count 2 --raw | cmp - data.bin
  ok pv-disk close d
  qemu-img create -q -f qcow2 odd.qcow2 1049088
  expect_error invalid 4 pv-disk serve d --image odd.qcow2 --sector-size 4k
}

@test "luks: the right key, a wrong one, none, one that is not there; never on a command line" {
  ok pv-disk create t.luks --size 1M --key-file key
  has ".disk.source.key_file == \"$PWD/key\" and .disk.size_bytes == 1048576"
  serve d --image t.luks --key-file key
  printf 'hidden words' | pv-disk write d >/dev/null
  local pid
  for pid in $(pv-disk info d -o pid) $(pv-disk info d -o backend.pid); do
    run tr '\0' ' ' <"/proc/$pid/cmdline"
    refute_output --partial 'a passphrase'
  done
  ok pv-disk close d
  run grep -c 'hidden words' t.luks
  assert_output 0
  bash -c 'pv-disk create again.luks --size 1M --key-file key | pv-disk serve p' >/dev/null
  ok pv-disk close p
  printf 'another' >wrong
  expect_error invalid 4 pv-disk serve d --image t.luks --key-file wrong
  expect_error usage 2 pv-disk serve d --image t.luks
  expect_error invalid 4 pv-disk serve d --image t.luks --key-file nosuch
  expect_error usage 2 pv-disk serve d --memory 1M --key-file key
  truncate -s 1M t.img
  expect_error usage 2 pv-disk serve d --image t.img --key-file key
  expect_error usage 2 pv-disk create u.luks --size 1M
  expect_error usage 2 pv-disk create u.vdi --size 1M --key-file key
  ok pv-disk create t.qcow2 --size 1M --key-file key
  expect_error invalid 4 pv-disk serve d --image t.qcow2
  serve d --image t.qcow2 --key-file key
}

@test "create tells the size that a format has made of the one asked for" {
  ok pv-disk create t.vpc --size 8M
  has '.disk.size_bytes > 8388608'
  local said=$output
  serve d --image t.vpc
  ok pv-disk size d
  has ".disk.size_bytes == $(jq .disk.size_bytes <<<"$said")"
  expect_error unsupported 4 pv-disk create t.dmg --size 1M
  assert [ ! -e t.dmg ]
}
