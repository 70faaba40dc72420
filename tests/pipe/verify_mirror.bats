#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a mirrored disk does not find what differs, tells it wrongly, or does not reach both
# of its legs.

load helper
setup() { pv_setup; }
teardown() { pv_teardown; }

# mirror ID FLAGS…
mirror() { pv-verify mirror "$@" </dev/null >/dev/null; }
findings() { pv-verify findings --disk "$1" </dev/null; }

@test "the first sector full of 0xcd on one side and of zeroes on the other is found" {
  truncate -s 512K test.img ref.img
  head -c 512 /dev/zero | tr '\0' '\315' | dd of=test.img conv=notrunc status=none
  expect_error invalid 4 pv-verify mirror m --test test.img --reference ref.img
  has '.error.offset_bytes == 0'
  mirror m --test test.img --reference ref.img --assume-identical
  qio m 'read -v 0 512' | grep '00000000:  00 00 00 00' # the reference's
  qio m 'read 4k 4k'
  run pv-verify findings --disk m </dev/null
  [ "$status" -eq 1 ]
  has '.summary.mismatches == 1 and .summary.good == false'
  run command jq -c '.finding | select(.) | [.kind, .ranges, .different_bytes, .request.op]' <<<"$output"
  assert_output '["mismatch",[{"offset_bytes":0,"length_bytes":512}],512,"read"]'
  run bash -c "pv-verify findings --disk m </dev/null | jq -r '.finding | select(.) |
    .excerpt.test_b64' | base64 -d | od -An -tx1 -N4"
  assert_output ' cd cd cd cd'
}

@test "writes, zeroes and discards reach both legs" {
  random_file test.img 4M
  cp test.img ref.img
  mirror m --test test.img --reference ref.img
  qio m 'write -P 0x11 64k 64k' 'write -z 1M 64k' 'discard 2M 64k' 'write -f -P 0x22 3M 512' flush >/dev/null
  ok pv-verify findings --disk m </dev/null
  has '.summary.good'
  pv-disk close m </dev/null >/dev/null
  cmp test.img ref.img
  qemu-io -f raw -r -c 'read -P 0x11 64k 64k' -c 'read -P 0 1M 64k' -c 'read -P 0 2M 64k' \
    -c 'read -P 0x22 3M 512' ref.img >io.log
  run ! grep -i failed io.log
}

@test "a dropped write is stale, and its writer and rule are named" {
  truncate -s 1M test.img ref.img
  mirror m --test test.img --reference ref.img
  qio m 'write -P 1 8k 4k' >/dev/null
  pv-fault add drop_write --disk m --times 1 </dev/null >/dev/null
  qio m 'write -P 2 8k 4k' >/dev/null
  qio m 'read -P 2 8k 4k' >/dev/null
  run findings m
  has '.summary.by_class.stale == 1'
  run jq -c '.finding | select(.) | [.class, .suspect, .last_writer.test.rule != null,
    .last_writer.test.offset_bytes, .version.number < .last_writer.test.number]' <<<"$output"
  assert_output '["stale","test",true,8192,true]'
}

@test "an error of one leg is told and does not reach the client; a rule is known" {
  truncate -s 1M test.img ref.img
  mirror m --test test.img --reference ref.img
  pv-fault add eio_read --disk m </dev/null >/dev/null
  qio m 'read -P 0 0 4k'
  run pv-verify findings --disk m </dev/null
  [ "$status" -eq 0 ]
  has '.summary.status_differences_by_rule >= 1 and .summary.mismatches == 0'
  pv-disk close m </dev/null >/dev/null
}

@test "legs in other formats and behind URIs are compared" {
  truncate -s 8M ref.img
  qemu-img create -q -f qcow2 test.qcow2 8M
  serve r --image ref.img
  mirror m --test test.qcow2 --reference "$(uri r)"
  random_file data 8M
  nbdcopy data "$(uri m)"
  nbdcopy "$(uri m)" back
  cmp data back
  ok pv-verify findings --disk m </dev/null
  pv-disk close m </dev/null >/dev/null
  pv-disk close r </dev/null >/dev/null
  cmp data ref.img
  qemu-img compare -f qcow2 -F raw test.qcow2 ref.img
}

@test "a reference that vanishes gives records and ends nothing" {
  truncate -s 8M test.img ref.img
  serve r --image ref.img
  mirror m --test test.img --reference "$(uri r)" --layer delay:ms=0
  pv-disk close r --force </dev/null >/dev/null
  timeout 20 qemu-io -f raw -c 'read -P 0 0 4k' "$(uri m)"
  run pv-verify findings --disk m </dev/null
  [ "$status" -eq 1 ]
  has '.summary.status_differences >= 1'
  run pv-disk info m -o state </dev/null
  assert_output serving
}

@test "a leg that is cut while it is read gives records and ends nothing" {
  random_file test.img 8M
  cp test.img ref.img
  mirror m --test test.img --reference ref.img
  qio m 'read 0 8M' >/dev/null
  truncate -s 4096 ref.img
  qio m 'read 0 1M' 'read 4M 1M' 'read 4k 4k' >/dev/null
  run pv-verify findings --disk m </dev/null
  has '.summary.mismatches >= 1'
  run bash -c "pv-verify findings --disk m </dev/null | jq -c 'select(.finding).finding |
    select(.kind == \"changed_outside\") | [.leg, .how, .file_bytes_before, .file_bytes]'"
  assert_output '["reference","cut",8388608,4096]'
  run bash -c "pv-verify findings --disk m </dev/null | jq -c 'select(.finding).finding |
    select(.kind == \"mismatch\") | [.reference_changed_outside, .suspect, .class]' | sort -u"
  assert_output '[true,"reference","zeroed"]'
  run --separate-stderr pv-verify report --disk m </dev/null
  [ "$status" -eq 1 ]
  has '.report.verdict == "reference_changed"'
}

@test "a reference that somebody else writes to is told as such, before anybody reads it" {
  random_file test.img 4M
  cp test.img ref.img
  mirror m --test test.img --reference ref.img
  qio m 'write -P 1 0 4k' >/dev/null
  ok pv-verify findings --disk m </dev/null
  sleep 0.1 # by which a file's time may be late
  printf changed | dd of=ref.img bs=1 seek=1M conv=notrunc status=none
  run pv-verify findings --disk m </dev/null
  [ "$status" -eq 1 ]
  has '.summary | .mismatches == 0 and .reference_changed_outside and .good == false'
  run jq -c 'select(.finding).finding | [.kind, .how]' <<<"$output"
  assert_output '["changed_outside","changed"]'
  qio m 'read 1M 4k' >/dev/null
  run --separate-stderr pv-verify report --disk m </dev/null
  has '.report | .verdict == "reference_changed" and .by_suspect == {"reference":1}'
  # What is wrong with the disk under test stays its own.
  pv-fault add drop_write --disk m --times 1 </dev/null >/dev/null
  qio m 'write -P 2 2M 4k' 'read 2M 4k' >/dev/null
  run bash -c "pv-verify findings --disk m </dev/null | jq -r 'select(.finding).finding |
    select(.ranges[0].offset_bytes == 2097152).suspect'"
  assert_output test
}

@test "a mirror of legs that discard in different ways can be started again" {
  random_file ref.img 8M
  qemu-img convert -f raw -O qcow2 ref.img test.qcow2
  mirror m --test test.qcow2 --reference ref.img
  # Less than a cluster of the qcow2 image, which keeps it, parts of two, and many.
  qio m 'discard 4k 4k' 'discard 120k 16k' 'discard 1M 1M' 'discard 3000k 500k' >/dev/null
  ok pv-verify findings --disk m </dev/null
  has '.summary | .good and .left_out_bytes == 0'
  pv-disk close m </dev/null >/dev/null
  qemu-img compare -f qcow2 -F raw test.qcow2 ref.img
  mirror m --test test.qcow2 --reference ref.img
  qio m 'read 0 8M' >/dev/null
  ok pv-verify findings --disk m </dev/null
  has '.summary.good'
  pv-disk close m </dev/null >/dev/null
  # The other way round, where the reference is the one that leaves it open.
  mirror m --test ref.img --reference test.qcow2
  qio m 'discard 5M 4k' >/dev/null
  pv-disk close m </dev/null >/dev/null
  mirror m --test ref.img --reference test.qcow2
  pv-disk close m </dev/null >/dev/null
  qemu-io -f raw -r -c 'read -P 0 5M 4k' ref.img >io.log
  # Nothing but zeroes takes room where much was discarded.
  run bash -c "qemu-img map --output=json -f qcow2 test.qcow2 |
    jq '[.[] | select(.start == 1048576 and .data == false)] | length'"
  assert_output 1
}

@test "the same disk under two names, or an overlay and its own backing file, are no two legs" {
  truncate -s 1M a.img b.img
  serve d --image a.img
  local socket
  socket=$(sock d)
  expect_error usage 2 pv-verify mirror m --test "$(uri d)" --reference "nbd+unix:///d?socket=$socket"
  assert_output --partial 'same disk'
  ln -s "$socket" link.sock
  expect_error usage 2 pv-verify mirror m --test "$(uri d)" \
    --reference "nbd+unix:///?socket=$PV_T/w/link.sock"
  pv-disk close d </dev/null >/dev/null
  # A server of somebody else's.
  nbdkit -U "$PV_T/k.sock" -P "$PV_T/k.pid" memory 1M </dev/null
  expect_error usage 2 pv-verify mirror m --test "nbd+unix:///?socket=$PV_T/k.sock" \
    --reference "nbd+unix:///?socket=$PV_T/w/../k.sock"
  kill "$(cat "$PV_T/k.pid")"
  qemu-img create -q -f qcow2 -F raw -b a.img one.qcow2
  qemu-img create -q -f qcow2 -F qcow2 -b "$PWD/one.qcow2" two.qcow2
  expect_error usage 2 pv-verify mirror m --test one.qcow2 --reference a.img
  assert_output --partial 'one.qcow2 is an overlay on a.img'
  expect_error usage 2 pv-verify mirror m --test a.img --reference two.qcow2
  expect_error usage 2 pv-verify mirror m --test two.qcow2 --reference one.qcow2 --read-only
  # Two overlays on one image are two disks.
  qemu-img create -q -f qcow2 -F raw -b a.img other.qcow2
  mirror m --test one.qcow2 --reference other.qcow2
  qio m 'write -P 3 0 4k' 'read -P 3 0 4k' >/dev/null
  ok pv-verify findings --disk m </dev/null
}

@test "encrypted legs are opened with a key each" {
  truncate -s 4M a.img
  printf one >one.key
  printf two >two.key
  luks_img convert -O luks --object secret,id=s,file=one.key -o key-secret=s,iter-time=10 a.img a.luks
  luks_img convert -O qcow2 --object secret,id=s,file=two.key \
    -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 a.img b.qcow2
  expect_error usage 2 pv-verify mirror m --test a.luks --reference b.qcow2 \
    --reference-key-file two.key
  expect_error usage 2 pv-verify mirror m --test a.img --history h --reference-key-file two.key
  run --separate-stderr pv-verify mirror m --test a.luks --test-key-file two.key --reference b.qcow2 \
    --reference-key-file two.key </dev/null
  [ "$status" -ne 0 ]
  mirror m --test a.luks --test-key-file one.key --reference b.qcow2 --reference-key-file two.key
  qio m 'write -P 5 64k 64k' 'discard 96k 4k' 'read -P 5 64k 32k' 'read -P 0 96k 4k' >/dev/null
  ok pv-verify findings --disk m </dev/null
  has '.summary.good and .summary.left_out_bytes == 0'
  pv-disk close m </dev/null >/dev/null
  ok pv-verify compare a.luks b.qcow2 --key-file-a one.key --key-file-b two.key --summary
  has '.summary.equal'
  # The same as a document.
  pv-verify mirror --test a.luks --test-key-file one.key --reference b.qcow2 \
    --reference-key-file two.key </dev/null | pv-disk serve d >/dev/null
  qio d 'read -P 5 64k 32k' >/dev/null
}

@test "legs that make no mirror are refused" {
  truncate -s 1M a.img
  truncate -s 2M b.img
  ln -s a.img c.img
  expect_error invalid 4 pv-verify mirror m --test a.img --reference b.img
  assert_output --partial 'different size'
  expect_error usage 2 pv-verify mirror m --test a.img --reference a.img
  expect_error usage 2 pv-verify mirror m --test a.img --reference c.img
  expect_error usage 2 pv-disk serve m --image a.img --read-only --layer mirror:with=a.img
  expect_error no_image 4 pv-verify mirror m --test a.img --reference nosuch.img
  expect_error usage 2 pv-verify mirror m --test a.img
  expect_error usage 2 pv-verify mirror m --reference a.img
  expect_error usage 2 pv-verify mirror m --test a.img --reference b.img --on-mismatch panic
  expect_error usage 2 pv-verify mirror m --test a.img --reference b.img --scrub --scrub-rate 0
  serve d --image a.img
  expect_error unsupported 4 pv-verify findings --disk d
  cp a.img r.img
  chmod 444 r.img
  [ -w r.img ] || expect_error no_image 4 pv-verify mirror m --test b.img --reference r.img
}

@test "a mismatch can be an error, or hold the request until it is released" {
  truncate -s 1M ref.img
  head -c 1M /dev/zero | tr '\0' x >test.img
  mirror m --test test.img --reference ref.img --assume-identical --on-mismatch eio
  run qio m 'read 0 4k'
  assert_output --partial 'Input/output error'
  pv-disk close m </dev/null >/dev/null
  mirror m --test test.img --reference ref.img --assume-identical --on-mismatch hold --hold 20s
  qio m 'read -P 0 0 4k' >io.log 2>&1 &
  until_true bash -c "pv-verify held --disk m </dev/null | grep -q ticket"
  ok pv-verify release --disk m </dev/null
  has '.released == [1]'
  wait $!
  grep 'read 4096/4096' io.log
}

@test "without a name it is a document that pv-disk serves" {
  truncate -s 1M a.img b.img
  pv-verify mirror --test a.img --reference b.img </dev/null >doc.json
  has '.disk.state == "created" and .disk.source.type == "image"' "$(cat doc.json)"
  pv-disk serve d <doc.json >/dev/null
  qio d 'write -P 7 0 4k' >/dev/null
  cmp a.img b.img
  ok pv-verify findings --disk d </dev/null
}

@test "the findings can be followed until the disk is closed" {
  truncate -s 1M ref.img
  head -c 1M /dev/zero | tr '\0' x >test.img
  mirror m --test test.img --reference ref.img --assume-identical
  pv-verify findings --disk m --follow </dev/null >stream &
  qio m 'read 0 4k' >/dev/null
  until_true grep -q mismatch stream
  qio m 'read 8k 4k' >/dev/null
  until_true test "$(grep -c mismatch stream)" -ge 1
  pv-disk close m </dev/null >/dev/null
  wait $! || true
  has '.summary.mismatches >= 1' "$(cat stream)"
}

@test "a history finds a dropped write when the disk is served again" {
  truncate -s 1M d.img
  mirror m --test d.img --history h
  qio m 'write -P 1 0 64k' >/dev/null
  pv-fault add drop_write --disk m --times 1 </dev/null >/dev/null
  qio m 'write -P 2 16k 4k' >/dev/null
  pv-disk close m </dev/null >/dev/null
  mirror m --test d.img --history h
  qio m 'read 0 64k' >/dev/null
  run findings m
  has '.summary.by_class.stale == 1'
  run jq -c '.finding | select(.) | [.ranges[0].offset_bytes, .generation]' <<<"$output"
  assert_output '[16384,2]'
  pv-disk close m </dev/null >/dev/null
  truncate -s 2M d.img
  expect_error incompatible 4 pv-verify mirror m --test d.img --history h
  random_file e.img 1M
  expect_error incompatible 4 pv-verify mirror m --test e.img --history h
  mirror m --test e.img --history h --assume-identical
  qio m 'read 0 4k' >/dev/null
  run findings m
  has '.summary.mismatches == 1'
  pv-disk close m </dev/null >/dev/null
  head -c 100 h >cut.history
  truncate -s 1M d.img
  expect_error invalid 4 pv-verify mirror m --test d.img --history cut.history
}

@test "a scrub finds what nobody has read" {
  truncate -s 8M test.img ref.img
  printf x | dd of=test.img bs=1 seek=5000000 conv=notrunc status=none
  mirror m --test test.img --reference ref.img --assume-identical --scrub --scrub-rate 100M
  until_true bash -c "pv-verify findings --disk m </dev/null | grep -q '\"scrub\":true'"
  run bash -c "pv-verify findings --disk m </dev/null | jq -c 'select(.finding).finding.ranges[0]' | head -n 1"
  assert_output '{"offset_bytes":5000000,"length_bytes":1}'
}

@test "a history on a full file system is broken, and nothing counts as good" {
  mkdir small
  truncate -s 512M d.img
  unshare -rm true || skip 'no user namespaces here'
  unshare -rm bash -c 'mount -t tmpfs -o size=1m none small && touch small/ready &&
    pv-verify mirror m --test d.img --history small/h >/dev/null </dev/null &&
    head -c 1M /dev/zero >small/ballast 2>/dev/null; pv-disk info m -o pid </dev/null' >pid ||
    skip 'no tmpfs of our own here'
  pv-fault add drop_write --disk m --op write --range 400M+4k --nth 2 </dev/null >/dev/null
  qio m 'write -P 1 400M 4k' 'write -P 2 400M 4k' 'read 400M 4k' >/dev/null
  run pv-verify findings --disk m </dev/null
  [ "$status" -eq 1 ]
  run jq -c 'select(.summary).summary | [.state, .error, .good]' <<<"$output"
  assert_output '["broken","ENOSPC",false]'
  run --separate-stderr pv-verify report --disk m </dev/null
  [ "$status" -eq 1 ]
  has '.report | .verdict == "broken" and .error == "ENOSPC"'
}

@test "a history with damaged entries calls nothing good" {
  truncate -s 1M d.img
  mirror m --test d.img --history h
  qio m 'write -P 1 0 512k' 'read -P 1 0 512k' >/dev/null
  ok pv-verify findings --disk m
  ok pv-disk close m
  # One entry of the second page: its checksum is another one now.
  printf '\xff\xff\xff' | dd of=h bs=1 seek=4485 conv=notrunc status=none
  mirror m --test d.img --history h
  qio m 'read 0 512k' >/dev/null
  run --separate-stderr pv-verify findings --disk m </dev/null
  assert_failure 1
  has '.summary | .good == false and .damaged_entries == 1 and .mismatches == 0'
  run --separate-stderr pv-verify report --disk m --json </dev/null
  assert_failure 1
  has '.report | .verdict == "history_damaged" and .damaged_entries == 1'
}
