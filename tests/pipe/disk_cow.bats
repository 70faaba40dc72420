#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, an overlay of the cow layer shows something else than base plus changes, writes to
# its base, or is taken although its base or itself is not what it was. QEMU's and libnbd's tools
# say what is there.

load helper
setup() {
  pv_setup
  random_file base.img 4194304
  truncate -s 8M base.img
  cp -p base.img before.img
}
teardown() { pv_teardown; }

over() { printf 'cow:file=%s' "$1"; }

@test "cow: writes are in the overlay, the base stays as it is" {
  serve d --image base.img --layer "$(over o.cow)"
  ok pv-disk info d
  has '.disk.read_only == false and .disk.size_bytes == 8388608'
  qemu-img compare -f raw -F raw before.img "$(uri d)"
  ok qio d 'write -P 7 1M 96k' 'write -P 8 4000k 1000k' 'write -P 9 512 512' 'flush'
  ok qio d 'read -P 7 1M 96k' 'read -P 8 4000k 1000k' 'read -P 9 512 512'
  cmp base.img before.img
  assert [ "$(stat -c %Y base.img)" = "$(stat -c %Y before.img)" ]
  ok pv-disk close d
  serve d --image base.img --layer "$(over o.cow)"
  ok qio d 'read -P 7 1M 96k' 'read -P 8 4000k 1000k' 'read -P 9 512 512'
  cp before.img want.img
  qemu-io -f raw -c 'write -P 7 1M 96k' -c 'write -P 8 4000k 1000k' -c 'write -P 9 512 512' want.img
  qemu-img compare -f raw -F raw want.img "$(uri d)"
}

@test "cow: two overlays at once on one base; a third one on a file in use is refused" {
  serve a --image base.img --layer "$(over a.cow)"
  serve b --image base.img --layer "$(over b.cow)"
  ok qio a 'write -P 1 0 1M'
  ok qio b 'write -P 2 0 1M'
  ok qio a 'read -P 1 0 1M'
  ok qio b 'read -P 2 0 1M'
  expect_error in_use 4 pv-disk serve c --image base.img --layer "$(over a.cow)"
  expect_error in_use 4 pv-disk serve c --image base.img
  cmp base.img before.img
}

@test "cow: nbdcopy through it, there and back" {
  random_file other.img 8388608
  serve d --image base.img --layer "$(over o.cow),block=64k"
  nbdcopy other.img "$(uri d)"
  nbdcopy "$(uri d)" back.img
  cmp other.img back.img
  cmp base.img before.img
}

@test "cow: discarded and zeroed blocks do not let the base through, and the map says so" {
  serve d --image base.img --layer "$(over o.cow)"
  ok qio d 'discard 1M 1M' 'write -z 2M 512' 'write -P 3 3M 4k'
  ok qio d 'read -P 0 1M 1M' 'read -P 0 2M 512' 'read -P 3 3M 4k'
  nbdinfo --map --json "$(uri d)" >map.json
  has '[.[] | select(.offset == 1048576)][0] | .length == 1048576 and .type == 3' "$(<map.json)"
  has '[.[] | select(.offset == 4194304)][0] | .type == 3' "$(<map.json)"
  ok pv-disk close d
  serve d --image base.img --layer "$(over o.cow)"
  ok qio d 'read -P 0 1M 1M' 'read -P 0 2M 512'
}

@test "cow: the disk may be larger than its base; without a file the changes go with the server" {
  serve d --image base.img --layer "cow:size=16M"
  ok pv-disk size d
  has '.disk.size_bytes == 16777216'
  ok qio d 'read -P 0 8M 8M' 'write -P 5 12M 64k' 'read -P 5 12M 64k'
  ok pv-disk close d
  serve d --image base.img --layer cow
  qemu-img compare -f raw -F raw before.img "$(uri d)"
}

@test "cow: a qcow2 base is opened read-only too" {
  qemu-img convert -f raw -O qcow2 base.img base.qcow2
  sha256sum base.qcow2 >sum
  serve a --image base.qcow2 --layer "$(over a.cow)"
  serve b --image base.qcow2 --layer "$(over b.cow)"
  ok qio a 'write -P 1 0 1M' 'flush'
  qemu-img compare -f raw -F raw before.img "$(uri b)"
  ok pv-disk close a
  ok pv-disk close b
  sha256sum -c sum
}

@test "cow: a base that has changed is refused, one that was only touched is not" {
  serve d --image base.img --layer "$(over o.cow)"
  ok qio d 'write -P 1 0 64k'
  ok pv-disk close d
  touch base.img
  serve d --image base.img --layer "$(over o.cow)"
  ok pv-disk close d
  printf x | dd of=base.img bs=1 seek=2000000 conv=notrunc status=none
  expect_error invalid 4 pv-disk serve d --image base.img --layer "$(over o.cow)"
  [[ $stderr == *'the base has changed under overlay'*content* ]]
  cp -p before.img base.img
  truncate -s 9M base.img
  expect_error invalid 4 pv-disk serve d --image base.img --layer "$(over o.cow)"
  [[ $stderr == *'9437184 bytes instead of 8388608'* ]]
  serve d --image base.img --layer "$(over o.cow),rebase=yes"
  ok qio d 'read -P 1 0 64k'
  ok pv-disk close d
  serve d --image base.img --layer "$(over o.cow)"
  rm base.img
  ok pv-disk close d
  expect_error no_image 4 pv-disk serve d --image base.img --layer "$(over o.cow)"
}

@test "cow: an overlay that is damaged or cut short is refused, and left as it is" {
  serve d --image base.img --layer "$(over o.cow)"
  ok qio d 'write -P 1 0 4M' 'flush'
  ok pv-disk close d
  cp o.cow whole.cow
  truncate -s -4096 o.cow
  expect_error invalid 4 pv-disk serve d --image base.img --layer "$(over o.cow)"
  [[ $stderr == *'cut short'* ]]
  local at
  for at in 100 4100 65700; do
    cp whole.cow o.cow
    printf '\377' | dd of=o.cow bs=1 seek=$at conv=notrunc status=none
    cp o.cow damaged.cow
    expect_error invalid 4 pv-disk serve d --image base.img --layer "$(over o.cow)"
    [[ $stderr == *damaged* ]]
    cmp o.cow damaged.cow
  done
  echo precious >o.cow
  expect_error invalid 4 pv-disk serve d --image base.img --layer "$(over o.cow)"
  assert_equal "$(cat o.cow)" precious
  serve d --image base.img --layer "$(over whole.cow)"
  ok qio d 'read -P 1 0 4M'
}

@test "cow: wrong keys are refused in one line" {
  local layer
  for layer in cow:block=5k cow:block=2k cow:block=2M cow:size=100 cow:rebase=maybe cow:nosuch=1 \
    cow:file=; do
    expect_error usage 2 pv-disk serve d --image base.img --layer "$layer"
  done
  expect_error usage 2 pv-disk serve d --image base.img --read-only --layer cow
  expect_error invalid 4 pv-disk serve d --image base.img --layer "cow:file=$PWD"
  serve d --image base.img --layer "$(over o.cow)"
  ok pv-disk close d
  expect_error invalid 4 pv-disk serve d --image base.img --layer "$(over o.cow),block=64k"
  expect_error invalid 4 pv-disk serve d --image base.img --layer "$(over o.cow),size=9M"
}

@test "cow: a full file system is ENOSPC to the client; with room again it goes on" {
  mkdir small
  unshare -rm true || skip 'no user namespaces here'
  unshare -rm bash -c 'mount -t tmpfs -o size=2m none small && touch small/ready &&
    pv-disk serve d --image base.img --layer cow:file=small/o.cow >/dev/null </dev/null &&
    head -c 600k /dev/zero >small/ballast && pv-disk info d -o pid </dev/null' >pid ||
    skip 'no tmpfs of our own here'
  local pid
  pid=$(<pid)
  run qio d 'write -P 1 0 1M' 'flush'
  assert_success
  run qio d 'write -P 2 2M 1M'
  assert_output --partial 'No space left'
  run --separate-stderr qio d 'read -P 1 0 1M' 'flush'
  assert_success
  nsenter -U --preserve-credentials -m -t "$pid" rm "$PWD/small/ballast"
  ok qio d 'write -P 3 2560k 256k' 'flush' 'read -P 3 2560k 256k' 'read -P 1 0 1M'
  cmp base.img before.img
}

@test "cow: a file that may not grow is ENOSPC to the client, and no signal ends the server" {
  serve d --image base.img --layer "$(over o.cow)"
  prlimit --fsize=1048576:unlimited --pid "$(pv-disk info d -o pid </dev/null)"
  run qio d 'write -P 1 64k 64k' 'flush'
  assert_success
  run qio d 'write -P 2 4M 64k'
  assert_output --partial 'No space left'
  ok qio d 'read -P 1 64k 64k'
  prlimit --fsize=unlimited --pid "$(pv-disk info d -o pid </dev/null)"
  ok qio d 'write -P 2 4M 64k' 'read -P 2 4M 64k'
}

@test "readcache: what was read once never meets the slow disk again" {
  serve d --image base.img --read-only --layer readcache:size=16M
  qemu-img compare -f raw -F raw before.img "$(uri d)"
  ok pv-disk stats d
  local once
  once=$(jq .disk.stats.layers.backend.bytes_backing <<<"$output")
  nbdcopy "$(uri d)" copy.img
  cmp copy.img before.img
  ok pv-disk stats d
  has ".disk.stats.layers.backend.bytes_backing == $once and .disk.stats.layers.readcache.hits > 0"
}

@test "readcache: writes reach the disk at once and the cache shows them; its file is its own" {
  serve d --image base.img --layer readcache:file=fast,populate=both
  ok qio d 'read 0 1M' 'write -P 4 512k 1M' 'read -P 4 512k 1M' 'discard 0 64k' 'read -P 0 0 64k'
  qemu-io -U -f raw -r -c 'read -P 4 512k 1M' -c 'read -P 0 0 64k' base.img
  ok pv-disk close d
  printf new | dd of=base.img bs=1 seek=512k conv=notrunc status=none
  serve d --image base.img --layer readcache:file=fast
  qemu-img compare -f raw -F raw -U base.img "$(uri d)"
  echo precious >mine
  expect_error invalid 4 pv-disk serve e --memory 1M --layer readcache:file=mine
  assert_equal "$(cat mine)" precious
  expect_error usage 2 pv-disk serve e --memory 1M --layer readcache:populate=never
  expect_error usage 2 pv-disk serve e --memory 1M --layer readcache:size=1k
}
