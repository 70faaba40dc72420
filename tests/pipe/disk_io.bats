#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, reading and writing a disk from the host does not do what rows A3-A18, A31 and A32
# of the feature table promise: sectors, whole-request failure, fixed capacity, partial tails.

load helper
setup() { pv_setup; }
teardown() { pv_teardown; }

@test "A3: create makes a sparse image, 4 GiB unless a size is given" {
  ok pv-disk create big.img
  has '.disk.size_bytes == 4294967296 and .disk.source.path == "'"$PWD"'/big.img"'
  assert [ "$(stat -c %s big.img)" = 4294967296 ]
  assert [ "$(stat -c %b big.img)" = 0 ]
  local pair
  for pair in 512M=536870912 2G=2147483648 1536=1536 1.5k=1536 1MiB=1048576; do
    ok pv-disk create "s${pair%%=*}.img" --size "${pair%%=*}"
    has ".disk.size_bytes == ${pair##*=}"
  done
}

@test "A3: sizes that are none are refused and make no file" {
  local size
  for size in '' 0 -1 12x 1..5M 0x200 513 99999999999G '1 M' NaN 1e6 0.3k; do
    expect_error usage 2 pv-disk create t.img --size "$size"
    assert [ ! -e t.img ]
  done
}

@test "A5: create never touches a file that exists, serve never makes one" {
  echo precious >t.img
  expect_error duplicate_name 4 pv-disk create t.img --size 1M
  assert_equal "$(cat t.img)" precious
  expect_error no_image 4 pv-disk serve d --image nosuch.img
  assert [ ! -e nosuch.img ]
}

@test "A4: a scratch disk is blank and gone when closed" {
  serve d --scratch 1M
  pv-disk read d --count 2048 --raw | cmp -n 1048576 - /dev/zero
  find "$PV_RUN_DIR" -name scratch.img | grep -q .
  ok pv-disk close d
  run find "$PV_RUN_DIR" -name '*.img'
  assert_output ''
}

@test "A4: a template is copied, the original is untouched, the copy is gone when closed" {
  random_file base.img 1048576
  cp base.img before.img
  serve d --template base.img
  pv-disk read d --count 2048 --raw | cmp - base.img
  head -c 512 /dev/zero | pv-disk write d
  pv-disk read d --raw | cmp -n 512 - /dev/zero
  cmp base.img before.img
  ok pv-disk close d
  run find "$PV_RUN_DIR" -name 'copy*'
  assert_output ''
}

@test "A4: two sources or none are refused and the message lists what was given" {
  truncate -s 1M t.img
  expect_error usage 2 pv-disk serve d --image t.img --scratch 1M
  [[ $stderr == *"--image t.img"*"--scratch 1M"* ]]
  expect_error usage 2 pv-disk serve d --template t.img --memory 1M
  expect_error usage 2 pv-disk serve d
  expect_error usage 2 pv-disk serve d --scratch 1M --format raw
  ok pv-disk list
  assert_output ''
}

@test "A7: a sector is 512 bytes, or 4096 when asked for" {
  random_file t.img 65536
  serve a --image t.img
  ok pv-disk read a --sector 3
  has '.data.offset_bytes == 1536 and .data.length_bytes == 512'
  expect_error in_use 4 pv-disk serve b --template t.img # a copy of what is being written is none
  ok pv-disk close a
  serve b --template t.img --sector-size 4096
  ok pv-disk read b --sector 3
  has '.data.offset_bytes == 12288 and .data.length_bytes == 4096'
  ok pv-disk info b
  has '.disk.sector_size == 4096 and .disk.physical_sector_size == 4096'
}

@test "sector sizes that no disk has are refused" {
  local size
  for size in 0 256 1000 131072 x; do
    run --separate-stderr pv-disk serve d --scratch 1M --sector-size "$size"
    assert [ "$status" -eq 2 ] || assert [ "$status" -eq 4 ]
  done
  expect_error invalid 4 pv-disk serve d --scratch 1M --sector-size 4096 --physical-sector-size 512
}

@test "A8: size is the disk's, and says when the image was cut behind our back" {
  truncate -s 1M t.img
  serve d --image t.img
  ok pv-disk size d
  has '.disk.size_bytes == 1048576 and .disk.image_bytes == 1048576'
  has '.disk.image_differs == false'
  truncate -s 512k t.img
  ok pv-disk size d
  has '.disk.size_bytes == 1048576 and .disk.image_bytes == 524288 and .disk.image_differs'
}

@test "A9: a disk in memory has a size and no image" {
  serve d --memory 1M
  ok pv-disk size d
  has '.disk.size_bytes == 1048576 and (.disk | has("image_bytes") | not)'
}

@test "A10: read gives the bytes of the sectors, as a document and raw" {
  random_file t.img 1048576
  serve d --image t.img
  ok pv-disk read d --sector 7 --count 3
  has '.data.offset_bytes == 3584 and .data.length_bytes == 1536 and (.data.xxh3 | length == 16)'
  jq -r .data.b64 <<<"$output" | base64 -d | cmp - <(dd if=t.img bs=512 skip=7 count=3 status=none)
  dd if=t.img bs=1k skip=4 count=2 status=none >want
  pv-disk read d --offset 4k --length 2k --raw | cmp - want
  ok pv-disk read d --count 0
  has '.data.length_bytes == 0 and .data.b64 == ""'
}

@test "A11: inside the capacity, what the image lacks reads as zeroes and is counted" {
  random_file t.img 1048576
  serve d --image t.img
  truncate -s 1000 t.img
  pv-disk read d --sector 1 --count 2 --raw >out
  assert [ "$(stat -c %s out)" = 1024 ]
  cmp -n 488 out <(tail -c +513 t.img)
  tail -c +489 out | cmp -n 536 - /dev/zero
  ok pv-disk stats d
  has '.disk.stats.layers.backend.bytes_zero_filled == 536 and .disk.stats.read.bytes == 1024'
}

@test "A11: a read that crosses the end fails whole, wherever it starts" {
  serve d --scratch 1M
  local args
  for args in '--sector 2047 --count 2' '--sector 2048' '--sector 999999999999999' \
    '--offset 1048064 --length 1k' '--offset 8E --length 1' '--count 999999999999999999'; do
    # shellcheck disable=SC2086
    run --separate-stderr pv-disk read d $args </dev/null
    assert [ "$status" -eq 4 ] || assert [ "$status" -eq 2 ]
    [ -n "$stderr" ]
  done
  expect_error out_of_range 4 pv-disk read d --sector 2047 --count 2
  expect_error out_of_range 4 pv-disk discard d --sector 2047 --count 2
  expect_error out_of_range 4 pv-disk zero d --sector 2048 --count 1
  ok pv-disk read d --sector 2047
}

@test "A16 A17: a write is as long as its data, and one that crosses the end writes nothing" {
  serve d --scratch 1M
  random_file data 1024
  ok pv-disk write d --sector 2046 --from data
  has '.data.length_bytes == 1024 and .data.partial_tail == false'
  pv-disk read d --sector 2046 --count 2 --raw | cmp - data
  head -c 1025 /dev/zero >long
  expect_error out_of_range 4 pv-disk write d --sector 2046 --from long
  pv-disk read d --sector 2046 --count 2 --raw | cmp - data
  ok pv-disk stats d
  has '.disk.stats.write.completed == 1'
}

@test "A17: a write past the end of the image never makes it larger" {
  truncate -s 1M t.img
  serve d --image t.img
  head -c 4096 /dev/urandom >data
  expect_error out_of_range 4 pv-disk write d --sector 2047 --from data
  assert [ "$(stat -c %s t.img)" = 1048576 ]
}

@test "A16: a partial tail changes only its own bytes and is reported" {
  random_file t.img 4096
  cp t.img want.img
  printf 'hello' | dd of=want.img bs=1 seek=700 conv=notrunc status=none
  serve d --image t.img
  ok bash -c 'printf hello | pv-disk write d --offset 700'
  has '.data.partial_tail and .data.length_bytes == 5 and .data.offset_bytes == 700'
  pv-disk read d --count 8 --raw | cmp - want.img
}

@test "A16: --strict refuses what does not cover whole sectors, and writes nothing" {
  serve d --scratch 4k
  expect_error invalid 4 bash -c 'printf hello | pv-disk write d --strict'
  expect_error invalid 4 bash -c 'head -c 512 /dev/urandom | pv-disk write d --strict --offset 1'
  pv-disk read d --count 8 --raw | cmp -n 4096 - /dev/zero
  ok bash -c 'head -c 512 /dev/urandom | pv-disk write d --strict --sector 1'
}

@test "writes and reads larger than one request arrive whole, ragged edges included" {
  serve d --scratch 40M
  random_file data 34000001
  ok pv-disk write d --offset 777 --from data
  # Whole sectors around it, then the very bytes.
  pv-disk read d --offset 0 --length 34000896 --raw | tail -c +778 | head -c 34000001 | cmp - data
  pv-disk read d --offset 0 --length 512 --raw | cmp -n 512 - /dev/zero
}

@test "a read-only disk refuses every change and reads on" {
  random_file t.img 65536
  cp t.img before.img
  serve d --image t.img --read-only
  expect_error read_only 4 bash -c 'head -c 512 /dev/zero | pv-disk write d'
  expect_error read_only 4 bash -c 'printf x | pv-disk write d'
  expect_error read_only 4 pv-disk discard d --all
  expect_error read_only 4 pv-disk zero d --count 1
  ok pv-disk flush d
  pv-disk read d --count 128 --raw | cmp - before.img
  cmp t.img before.img
  run nbdinfo --is readonly "$(uri d)"
  assert_success
}

@test "discard and zero make the range read as zeroes and nothing else" {
  random_file t.img 1048576
  cp t.img want.img
  dd if=/dev/zero of=want.img bs=512 seek=8 count=8 conv=notrunc status=none
  dd if=/dev/zero of=want.img bs=512 seek=100 count=3 conv=notrunc status=none
  serve d --image t.img
  ok pv-disk discard d --sector 8 --count 8
  ok pv-disk zero d --sector 100 --count 3 --fua
  pv-disk read d --count 2048 --raw | cmp - want.img
  expect_error usage 2 pv-disk discard d
}

@test "A32: what qemu-io has written, pv-disk reads, and the other way round" {
  serve d --scratch 1M
  run qio d 'write -P 0x61 0 512'
  assert_success
  assert_equal "$(pv-disk read d --raw)" "$(printf 'a%.0s' {1..512})"
  printf 'b%.0s' {1..512} | pv-disk write d --sector 1
  run qio d 'read -P 0x62 512 512'
  assert_success
  refute_output --partial 'failed'
}

@test "what was read can be written to another disk down a pipe" {
  random_file t.img 65536
  serve a --image t.img
  serve b --scratch 64k
  dd if=t.img bs=512 skip=5 count=2 status=none >want
  ok bash -c 'set -o pipefail
    pv-disk read a --sector 5 --count 2 --raw | pv-disk write b --sector 5'
  pv-disk read b --sector 5 --count 2 --raw | cmp - want
  # And as a document, whose data says where it belongs.
  ok bash -c 'set -o pipefail
    pv-disk read a --sector 9 | jq -c ".disk = {id:\"b\"}" | pv-disk write'
  pv-disk read b --sector 9 --raw | cmp - <(dd if=t.img bs=512 skip=9 count=1 status=none)
}

@test "A31: info shows the disk, -o picks fields, --json=pretty and --text render the same" {
  serve d --scratch 1M --serial S123
  ok pv-disk info d
  has '.v == 1 and .disk.id == "d" and .disk.scope == "default" and .disk.vm == null'
  has '.disk | .state == "serving" and .transport == "nbd" and .serial == "S123"'
  has '.disk.layers == ["fault"]'
  ok pv-disk info d -o size_bytes
  assert_output 1048576
  ok pv-disk info d -o source.type
  assert_output scratch
  ok pv-disk info d --json=pretty
  assert [ "${#lines[@]}" -gt 10 ]
  has '.disk.id == "d"'
  ok pv-disk info d --text
  assert_line --regexp '^ +size_bytes +1 MiB$'
  ok pv-disk list --text
  expect_field_error
}

expect_field_error() {
  run --separate-stderr pv-disk info d -o nosuch
  assert [ "$status" -eq 2 ]
  assert [ "${#stderr_lines[@]}" -eq 1 ]
  assert_output ''
}

@test "list shows every disk of the scope, sorted, and --all those of every scope" {
  serve b --memory 1M
  serve a --memory 1M
  serve c --memory 1M --scope other/inner
  ok pv-disk list
  assert_equal "$(jq -r .disk.id <<<"$output" | xargs)" 'a b'
  ok pv-disk list --all
  assert_equal "$(jq -r '.disk.scope + ":" + .disk.id' <<<"$output" | sort | xargs)" \
    'default:a default:b other/inner:c'
}

@test "A2: an id is taken once in a scope and its inner scopes" {
  serve d --memory 1M
  expect_error duplicate_name 4 pv-disk serve d --memory 1M
  expect_error duplicate_name 4 pv-disk serve d --memory 1M --scope default/inner
  serve d --memory 1M --scope elsewhere
  ok pv-disk close d
  ok pv-disk close d
  has '.disk.closed == false'
  ok pv-disk close d --scope elsewhere
}

@test "close --all ends what is in the scope and only that" {
  serve a --memory 1M
  serve b --memory 1M
  serve c --memory 1M --scope other
  ok pv-disk close --all
  ok pv-disk list --all
  assert_equal "$(jq -r .disk.id <<<"$output")" c
}

@test "a document carries the source, so create pipes into serve" {
  ok bash -c 'set -o pipefail; pv-disk create t.img --size 1M | pv-disk serve | pv-disk read'
  has '.disk.state == "serving" and .disk.source.path == "'"$PWD"'/t.img"'
  has '.data.length_bytes == 512'
}
