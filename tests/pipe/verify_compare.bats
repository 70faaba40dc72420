#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# compare from outside: what it opens, what it prints, what it refuses. If this fails, two disks that
# differ count as equal, or the other way round.

load helper

setup() { pv_setup; }
teardown() { pv_teardown; }

# An image of 8 MiB with data in three places.
image() {
  truncate -s 8M "$1"
  head -c 300000 /dev/urandom | dd of="$1" bs=4k conv=notrunc status=none
  head -c 100000 /dev/urandom | dd of="$1" bs=4k seek=1000 conv=notrunc status=none
}
poke() { printf '%s' "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }

@test "compare: every range in one pass, exit 1, and the same bytes as cmp -l" {
  image a.img
  cp a.img b.img
  ok pv-verify compare a.img b.img
  has '.summary | .equal and .ranges == 0 and .first_bytes == null and .compared_bytes < 500000'
  poke b.img 5 'Hello, world'
  poke b.img 100000 $'\x01'
  head -c 5000 /dev/urandom | dd of=b.img bs=1 seek=6000001 conv=notrunc status=none
  run -1 --separate-stderr pv-verify compare a.img b.img
  assert_equal "$stderr" ''
  has '.summary | .equal == false and .ranges == 3'
  has ".summary.differing_bytes == $(cmp -l a.img b.img | wc -l)"
  assert_equal "$(jq -c 'select(.range).range.offset_bytes' <<<"$output" | paste -sd' ')" \
    "$(cmp -l a.img b.img | awk 'NR == 1 || $1 - last > 512 { print $1 - 1 } { last = $1 }' | paste -sd' ')"
  run -1 pv-verify compare --merge 0 a.img b.img
  assert_equal "$(jq -s 'map(select(.range).range.length_bytes) | add' <<<"$output")" \
    "$(cmp -l a.img b.img | wc -l)"
  run -1 pv-verify compare --summary a.img b.img
  assert_equal "${#lines[@]}" 1
}

@test "compare: every pair of formats, served disks, URIs and compressed images" {
  image a.img
  cp a.img b.img
  poke b.img 4100000 x
  for f in qcow2 vmdk vdi; do qemu-img convert -f raw -O $f a.img a.$f; done
  tr '\0-\377' '\0-\1' <a.img | dd of=text.img status=none  # what can be compressed
  qemu-img convert -c -f raw -O qcow2 text.img c.qcow2
  qemu-img create -q -f qcow2 -b a.img -F raw over.qcow2
  serve d --image b.img --read-only
  ok pv-verify compare text.img c.qcow2
  has '.summary | .a_read_by == "file" and .b_read_by == "server"'
  for one in a.img a.qcow2 a.vmdk a.vdi over.qcow2; do
    for other in a.img a.qcow2 d; do
      [ "$one" = "$other" ] && continue
      [ "$one $other" = "over.qcow2 a.img" ] && continue
      run --separate-stderr pv-verify compare "$one" "$other"
      assert_equal "$stderr" ''
      if [ "$other" = d ]; then
        assert_equal "$status" 1
        has '.summary | .ranges == 1 and .first_bytes == 4100000 and .differing_bytes == 1'
      else
        assert_equal "$status" 0
      fi
    done
  done
  run -1 pv-verify compare "$(uri d)" a.qcow2
  has '.summary.first_bytes == 4100000'
  serve large --image a.img --read-only --sector-size 4096
  ok pv-verify compare "$(uri large)" a.qcow2
  ok pv-verify compare large a.vmdk
  cp a.qcow2 noext
  ok pv-verify compare --format-b qcow2 a.img noext
  has '.summary.a_read_by == "file" and .summary.b_read_by == "qcow2"'
  printf secret >key
  luks_img convert -O luks --object secret,id=s,file=key -o key-secret=s,iter-time=10 a.img x.luks
  ok pv-verify compare a.img x.luks --key-file-b key
  expect_error usage 2 pv-verify compare a.img x.luks
}

@test "compare: holes are not read, and a tail is compared with zeroes" {
  truncate -s 1T a.img b.img
  poke a.img 900000000000 same
  poke b.img 900000000000 same
  ok pv-verify compare a.img b.img
  has '.summary | .size_bytes == 1099511627776 and .compared_bytes <= 65536'
  qemu-img create -q -f qcow2 c.qcow2 1T
  run -1 pv-verify compare a.img c.qcow2
  has '.summary | .ranges == 1 and .first_bytes == 900000000000 and .compared_bytes <= 65536'

  truncate -s 1M s.img
  truncate -s 3M l.img
  expect_error invalid 4 pv-verify compare s.img l.img
  ok pv-verify compare --allow-size s.img l.img
  poke l.img 2000000 x
  run -1 pv-verify compare --allow-size l.img s.img
  has '.summary | .first_bytes == 2000000 and .size_bytes == 3145728'
  jq -se '.[0].range | .b_zero and (.a_zero | not)' <<<"$output" >/dev/null
}

@test "compare: --map shows where, and a person gets lines" {
  truncate -s 64M a.img b.img
  poke a.img 0 equal
  poke b.img 0 equal
  poke b.img 33000000 x
  head -c 1M /dev/urandom | dd of=b.img bs=1M seek=63 conv=notrunc status=none
  run -1 pv-verify compare --map --summary a.img b.img
  has '.summary.map | length == 64 and .[0:1] == "." and .[31:32] == "x" and .[1:31] == (" " * 30)'
  run -1 pv-verify compare --text a.img b.img
  assert_line --regexp '^ +33000000 +1 +1  zero in A$'
  assert_line --regexp '^  equal +no$'
  run -1 pv-verify compare -o range.offset_bytes a.img b.img
  assert_line --index 0 33000000
}

@test "compare: a bar on a terminal, and nothing of it elsewhere" {
  truncate -s 1G a.img b.img
  head -c 400M /dev/zero | tee a.img >b.img
  run -0 script -qec 'TERM=xterm pv-verify compare a.img b.img --jobs 1' /dev/null
  assert_output --regexp '\[#+ *\] +[0-9]+ %'
  run -0 --separate-stderr pv-verify compare a.img b.img
  assert_equal "$stderr" ''
}

@test "compare: what it refuses" {
  image a.img
  ln a.img hard.img
  ln -s a.img soft.img
  mkdir dir
  mkfifo pipe
  : >empty
  expect_error usage 2 pv-verify compare a.img a.img
  expect_error usage 2 pv-verify compare a.img ./hard.img
  expect_error usage 2 pv-verify compare soft.img a.img
  expect_error no_image 4 pv-verify compare a.img nosuch.img
  expect_error no_image 4 pv-verify compare a.img dir
  expect_error no_image 4 timeout 10 pv-verify compare a.img pipe
  expect_error invalid 4 pv-verify compare a.img empty
  cp a.img b.img
  expect_error invalid 4 pv-verify compare --format-b qcow2 a.img b.img
  expect_error usage 2 pv-verify compare --format-b nosuch a.img b.img
  expect_error usage 2 pv-verify compare --jobs 0 a.img b.img
  expect_error usage 2 pv-verify compare --merge -1 a.img b.img
  expect_error usage 2 pv-verify compare a.img
  head -c 100000 b.img >cut.qcow2
  expect_error invalid 4 pv-verify compare a.img cut.qcow2
  serve d --image b.img
  expect_error in_use 4 pv-verify compare a.img b.img
  expect_error usage 2 pv-verify compare d d
  expect_error usage 2 pv-verify compare d "$(uri d)"
  expect_error usage 2 pv-verify compare --format-a qcow2 d a.img
  ok pv-verify compare d a.img
  pv-fault add eio_read --disk d </dev/null >/dev/null
  expect_error io 4 pv-verify compare d a.img
  pv-fault clear --disk d </dev/null >/dev/null
  pv-fault add stall --disk d --op read </dev/null >/dev/null
  expect_error timeout 6 pv-verify compare --timeout 500ms d a.img
}

@test "compare: an image that grows meanwhile" {
  head -c 20M /dev/zero >a.img
  cp a.img b.img
  serve d --image a.img
  pv-fault add stall --disk d --op read --id hold </dev/null >/dev/null
  { pv-fault wait hold --disk d && echo x >>b.img && pv-fault clear --disk d; } </dev/null >/dev/null &
  expect_error aborted 4 pv-verify compare d b.img --allow-size
  wait
}

# If this fails, bytes that a server never sent are zeroes, and equal to zeroes.
@test "compare: an answer with less data than was asked for is an error, not zeroes" {
  random_file a.img 1048576
  cp a.img b.img
  dd if=/dev/zero of=b.img bs=256k seek=3 count=1 conv=notrunc status=none
  serve d --image a.img
  pv-fault add violate --set what=missing_data --disk d </dev/null >/dev/null
  expect_error io 4 pv-verify compare d b.img --summary
  serve e --image "$(uri d)" --read-only
  expect_error io 4 pv-disk read e --length 1M
}
