#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If these fail, a log of what changed a disk is not what clients did to it, or an image cannot be
# brought to where it was: cmp, e2fsck and an independent reader of dm-log-writes say so.

load helper
setup() { pv_setup; }
teardown() { pv_teardown; }

DM="$BATS_TEST_DIRNAME/../servers/dm_log.py"

# recorded ID SIZE: a blank raw image ID.img, served with a log ID.log.
recorded() {
  truncate -s "$2" "$1.img"
  pv-verify record "$1.log" --image "$1.img" | pv-disk serve "$1" >/dev/null
}

@test "record: what qemu-io does is in the log, marks between, and replays to any point" {
  recorded d 1M
  qio d 'write -P 1 0 64k' 'write -f -P 2 4k 4k' 'flush'
  ok pv-verify mark half --disk d
  has '.mark | .name == "half" and .n >= 4'
  qio d 'write -z 0 8k' 'discard 32k 8k' 'write -P 3 512 512'
  ok pv-disk info d
  has '.disk.record | .state == "recording" and .requests >= 7'
  ok pv-disk close d
  ok pv-verify log d.log
  jq -se '[.[] | select(.entry) | .entry] as $e | ($e | map(.n) == [range(1; length + 1)])
    and ($e[:3] | map(.op)) == ["write", "write", "flush"]
    and ($e[0] | .offset_bytes == 0 and .length_bytes == 65536 and .fua == false and .status == "OK")
    and ($e[1].fua) and ($e | any(.op == "zero" and .length_bytes == 8192))
    and ($e | any(.op == "discard" and .offset_bytes == 32768))' <<<"$output"
  has '.summary | .state == "closed" and .marks == 1 and .pending == 0 and .unused_bytes == 0'
  truncate -s 1M half.img all.img
  ok pv-verify replay d.log half.img --to half
  cp half.img goes_on.img
  qemu-io -f raw -c 'read -P 1 0 4k' -c 'read -P 2 4k 4k' -c 'read -P 1 8k 56k' -c 'read -P 0 64k 960k' half.img
  ok pv-verify replay d.log all.img
  ok cmp all.img d.img
  ok pv-verify replay d.log goes_on.img --from half
  ok cmp goes_on.img d.img
  qemu-img create -q -f qcow2 q.qcow2 1M
  ok pv-verify replay d.log q.qcow2
  ok qemu-img compare -q d.img q.qcow2
  pv-disk serve m --memory 1M </dev/null >/dev/null
  ok pv-verify replay d.log m --to 2
  pv-disk read m --offset 0 --length 1M --raw >m.img
  ok cmp m.img half.img
}

@test "record: marks of pv-fault are in the log too; a disk without a log says so" {
  recorded d 1M
  ok pv-fault mark here --disk d
  ok pv-disk serve e --memory 1M
  expect_error unsupported 4 pv-verify mark here --disk e
  expect_error usage 2 pv-verify mark 'no name' --disk d
  ok pv-disk close d
  ok pv-verify log d.log
  has_entry=$(jq -s 'map(select(.entry.op == "mark").entry.mark)' -c <<<"$output")
  [ "$has_entry" = '["here"]' ]
}

# replay_all LOG IMAGE: brings the image from one flush to the next, up to the end. At each e2fsck
# has to find a file system that its journal makes whole.
replay_all() {
  local at=$3 n flushes=0
  for n in $(pv-verify log "$1" | jq -r --argjson at "$at" \
    'select(.entry.op == "flush" and .entry.n > $at).entry.n'); do
    ok pv-verify replay "$1" "$2" --from "$at" --to "$n"
    at=$n
    cp --sparse=always "$2" fsck.img
    run e2fsck -fy fsck.img
    [ "$status" -le 1 ] || fail "after the flush $n: $output"
    e2fsck -fn fsck.img 2>&1
    flushes=$((flushes + 1))
  done
  ok pv-verify replay "$1" "$2" --from "$at"
  echo "$flushes flushes"
  [ "$flushes" -ge "$4" ]
}

@test "record: ext4 in a guest: after every flush there is a file system, the end is the image" {
  need_guest
  truncate -s 16M d.img
  mkfs.ext4 -q -b 1024 -F d.img
  cp d.img r.img
  guest_vm v
  pv-verify record d.log --image d.img </dev/null | pv-disk attach v --id vda >/dev/null
  ok pv-vm run v --raw -- sh -c 'mkdir /m && mount /dev/vda /m && cd /m &&
    for n in 1 2 3 4; do mkdir $n && seq 3000 >$n/a && sync && seq 99 >$n/b; done; sync'
  ok pv-verify mark written --disk v/vda
  ok pv-vm run v --raw -- sh -c 'cd /m && rm -r 1 2 && seq 5000 >last; cd / && umount /m'
  pv-vm close v </dev/null >/dev/null
  cp r.img half.img
  replay_all d.log r.img 1 8
  ok cmp r.img d.img
  # What was synced before the mark is there at the mark, whatever came after it.
  ok pv-verify replay d.log half.img --to written
  run e2fsck -fy half.img
  [ "$status" -le 1 ]
  debugfs -R 'dump 1/a a' half.img
  ok cmp a <(seq 3000)
}

@test "record: mkfs.ext4 over NBD as a file: after every flush there is a file system" {
  command -v nbdfuse >/dev/null && [ -w /dev/fuse ] || skip 'needs nbdfuse and /dev/fuse'
  recorded d 16M
  mkdir mnt
  nbdfuse mnt/disk "$(uri d)" >/dev/null 2>&1 3>&- &
  fuse=$!
  until_true test -e mnt/disk
  mkfs.ext4 -q -F mnt/disk
  made=$(pv-verify mark made --disk d -o n </dev/null)
  random_file some 300000
  debugfs -w -R "write some some" mnt/disk 2>/dev/null
  debugfs -w -R "mkdir folder" mnt/disk 2>/dev/null
  kill -TERM "$fuse"
  wait "$fuse" || true
  ok pv-disk close d
  truncate -s 16M r.img
  ok pv-verify replay d.log r.img --to made
  e2fsck -fn r.img
  replay_all d.log r.img "$made" 1
  ok cmp r.img d.img
  debugfs -R "dump some back" r.img 2>/dev/null
  ok cmp some back
}

@test "record: fio over NBD, 32 in flight: the replay is the image" {
  recorded d 16M
  fio --name=w --ioengine=nbd --uri="$(uri d)" --rw=randwrite --bsrange=512-64k --bs_unaligned=0 \
    --iodepth=32 --size=16M --io_size=32M --fsync=16 --output=/dev/null
  ok pv-disk close d
  ok pv-verify log d.log --summary
  has '.summary | .writes > 500 and .flushes > 10 and .pending == 0 and .failed == 0'
  truncate -s 16M r.img
  ok pv-verify replay d.log r.img
  ok cmp r.img d.img
}

@test "record: a server that is killed has left a log of all that was flushed" {
  recorded d 1M
  qio d 'write -P 1 0 64k' 'flush'
  kill -KILL "$(pv-disk info d -o pid </dev/null)"
  ok pv-verify log d.log --summary
  has '.summary | .state == "recording" and .flushes >= 1 and .writes == 1 and .pending == 0'
  truncate -s 1M r.img
  ok pv-verify replay d.log r.img
  qemu-io -f raw -c 'read -P 1 0 64k' r.img
  expect_error duplicate_name 4 pv-disk serve e --image d.img --layer record:file=d.log
  pv-verify record d.log --append --image d.img | pv-disk serve e >/dev/null
  qio e 'write -P 2 64k 64k' 'flush'
  ok pv-disk close e
  ok pv-verify log d.log
  jq -se 'any(.entry.op == "session" and .entry.gap_before) and last.summary.gaps == 1' <<<"$output"
  truncate -s 0 r.img && truncate -s 1M r.img
  run --separate-stderr pv-verify replay d.log r.img
  [ "$status" -eq 0 ]
  has '.replay | .gaps == 1 and .whole and .state == "closed"'
  [[ "$stderr" == *'gaps (1)'* ]]
  ok cmp r.img d.img
  ok pv-verify export d.log dm.log
  has '.export | .gaps == 1 and .whole and .unused_bytes == 0'
}

@test "record: what an orderly end left is gone on with without a gap, another disk is refused" {
  recorded d 1M
  qio d 'write -P 1 0 64k'
  ok pv-disk close d
  cp d.img other.img
  printf x | dd of=other.img bs=1 seek=1048575 conv=notrunc status=none
  pv-verify record d.log --append --image other.img >doc
  expect_error incompatible 4 pv-disk serve e --in doc
  pv-verify record d.log --append --image d.img | pv-disk serve e >/dev/null
  qio e 'write -P 2 64k 64k'
  ok pv-disk close e
  ok pv-verify log d.log
  jq -se 'any(.entry.gap_before == false) and (last.summary | .gaps == 0 and .whole)' <<<"$output"
  truncate -s 1M r.img
  ok pv-verify replay d.log r.img
  has '.replay | .gaps == 0 and .whole'
  ok cmp r.img d.img
}

@test "record: one that was closed in order and is damaged is not cut and gone on with" {
  # If this fails, what lies behind a damaged entry is thrown away, and the log looks whole.
  recorded d 1M
  qio d 'write -P 1 0 64k' 'write -P 2 64k 64k' 'write -P 3 0 64k' 'flush'
  ok pv-disk close d
  cp d.log good.log
  printf X | dd of=d.log bs=1 seek=100000 conv=notrunc status=none
  cp d.log damaged.log
  expect_error invalid 4 pv-disk serve e --image d.img --layer record:file=d.log,append=yes
  cmp d.log damaged.log
  head -c 150000 good.log >d.log
  expect_error invalid 4 pv-disk serve e --image d.img --layer record:file=d.log,append=yes
  assert_equal "$(stat -c %s d.log)" 150000
}

@test "record: a log that cannot be written is broken, and the guest does not notice" {
  truncate -s 4M d.img
  (ulimit -f 1024; pv-disk serve d --image d.img --layer record:file=d.log </dev/null >/dev/null)
  qio d 'write -P 1 0 512k' 'write -P 2 512k 512k' 'flush' 'write -P 3 0 512k' 'flush' 'read -P 3 0 512k'
  ok pv-disk info d
  has '.disk.record | .state == "broken" and .error == "EFBIG" and .not_recorded > 0'
  expect_error io 4 pv-verify mark late --disk d
  expect_error io 4 pv-disk close d
  [[ $stderr == *"disk 'd' is closed, but its record $PWD/d.log is broken"*EFBIG* ]]
  ok pv-verify log d.log --summary
  has '.summary | .state == "broken" and .error == "EFBIG" and .whole == false'
  truncate -s 4M r.img
  run --separate-stderr pv-verify replay d.log r.img
  [ "$status" -eq 1 ]
  has '.replay | .state == "broken" and .error == "EFBIG" and .whole == false'
  [[ "$stderr" == *'not whole'* ]]
  ok pv-verify export d.log dm.log
  has '.export | .state == "broken" and .error == "EFBIG" and .whole == false'
  qemu-io -f raw -c 'read -P 1 0 512k' r.img
  # To go on would make it look whole.
  expect_error invalid 4 pv-disk serve e --image d.img --layer record:file=d.log,append=yes
}

@test "record: cut, of another disk, no log: what is said of it" {
  recorded d 1M
  qio d 'write -P 1 0 64k' 'write -P 2 64k 64k' 'flush'
  ok pv-disk close d
  head -c 100000 d.log >cut.log
  ok pv-verify log cut.log --summary
  has '.summary | .writes == 1 and .unused_bytes > 0'
  truncate -s 1M r.img
  run --separate-stderr pv-verify replay cut.log r.img
  [ "$status" -eq 1 ]
  has '.replay | .last == 1 and .whole == false and .unused_bytes > 0'
  expect_error invalid 4 pv-verify replay cut.log r.img --to 2 --force
  ok pv-verify replay cut.log r.img --to 1 --force
  has '.replay | .last == 1 and .whole == false'
  qemu-io -f raw -c 'read -P 1 0 64k' -c 'read -P 0 64k 64k' r.img
  expect_error incompatible 4 pv-verify replay d.log r.img
  truncate -s 2M large.img
  expect_error incompatible 4 pv-verify replay d.log large.img
  ok pv-verify replay d.log large.img --force
  qemu-io -f raw -c 'read -P 2 64k 64k' large.img
  expect_error invalid 4 pv-verify log d.img
  expect_error invalid 4 pv-verify log missing
  expect_error no_image 4 pv-verify replay d.log missing
  truncate -s 1M s.img
  expect_error invalid 4 pv-verify replay d.log s.img --to nowhere
  expect_error invalid 4 pv-verify replay d.log s.img --to 99
  ok cmp -n 1048576 s.img /dev/zero
}

@test "dm-log-writes: an independent reader lists and replays what is exported" {
  recorded d 1M
  qio d 'write -P 1 0 64k' 'flush' 'write -f -P 2 4k 4k' 'write -z 8k 4k' 'discard 16k 4k'
  ok pv-verify mark half --disk d
  qio d 'write -P 3 512 512'
  ok pv-disk close d
  ok pv-verify export d.log dm.log
  count=$(jq .export.entries <<<"$output")
  ok python3 "$DM" list dm.log
  [ "${#lines[@]}" -eq "$count" ]
  jq -se '.[0] == {n: 0, offset: 0, length: 65536, flags: 0, mark: null}
    and (map(.flags) | index([1]) == 1) and any(.flags == 2 and .offset == 4096 and .length == 4096)
    and any(.flags == 4 and .offset == 16384) and any(.mark == "half")
    and last.mark == "dm-log-writes-end"' <<<"$output"
  truncate -s 1M r.img
  ok python3 "$DM" replay dm.log r.img "$count"
  ok cmp r.img d.img
  expect_error duplicate_name 4 pv-verify export d.log dm.log
}

@test "dm-log-writes: what an independent writer has made is imported and replayed" {
  ok python3 "$DM" write dm.log <<'END'
{"offset":0,"length":4096,"fill":"a"}
{"flags":1}
{"flags":3,"offset":4096,"length":1024,"fill":"b"}
{"flags":8,"mark":"mkfs"}
{"flags":4,"offset":512,"length":512}
{"flags":16,"offset":8192,"length":512,"fill":"m"}
{"flags":8,"mark":"dm-log-writes-end"}
END
  ok pv-verify import dm.log d.log --size 64k
  has '.import | .entries == 7 and .marks == 2 and .whole'
  ok pv-verify log d.log
  jq -se '[.[] | select(.entry).entry] | map(.op) ==
    ["write", "flush", "flush", "write", "mark", "discard", "write", "mark"]' <<<"$output"
  truncate -s 64k ours.img theirs.img mark.img
  ok pv-verify replay d.log ours.img
  ok python3 "$DM" replay dm.log theirs.img 7
  ok cmp ours.img theirs.img
  ok pv-verify replay d.log mark.img --to mkfs
  qemu-io -f raw -c 'read -P 0x61 0 4k' -c 'read -P 0x62 4k 1k' -c 'read -P 0 5k 59k' mark.img
  ok pv-verify export d.log back.log
  ok cmp <(python3 "$DM" list back.log | jq -c 'select(.flags != 3)' | head -1) \
    <(python3 "$DM" list dm.log | head -1 | jq -c .)
  truncate -s 64k back.img
  ok python3 "$DM" replay back.log back.img 99
  ok cmp back.img theirs.img
}
