#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, two hosts on one disk are not kept apart by persistent reservations, or a guest, a
# client or a command is taken for another host.

load helper
setup() { pv_setup; }
teardown() { pv_teardown; }

# qemu-io as a host: as_host HOST COMMAND
as_host() {
  qemu-io -f raw -t writeback -c "$2" "nbd+unix:///@$1?socket=$(sock d)"
}
pr() { pv-disk reserve "$@" </dev/null; }

@test "the host that holds writes, the other one may only read, until it preempts" {
  serve d --memory 1M --layer reserve
  pr register d --host-key a --new-key 0x1 >/dev/null
  pr register d --host-key b --new-key 0x2 >/dev/null
  pr reserve d --host-key a --key 0x1 --type write_exclusive >/dev/null
  as_host a 'write -P 1 0 4k' | grep -q 'wrote 4096'
  run as_host b 'write -P 2 0 4k'
  assert_output --partial 'Operation not permitted'
  as_host b 'read -P 1 0 4k' | grep -q 'read 4096'
  run pr preempt d --host-key b --key 0x2 --new-key 0x1 --type exclusive_access
  assert_success
  has '.reservation.holder == "b" and .reservation.generation == 3'
  as_host b 'write -P 2 0 4k' | grep -q 'wrote 4096'
  run as_host a 'read 0 4k'
  assert_output --partial 'Operation not permitted'
  # Who says no name is nobody's host.
  run qio d 'read 0 4k'
  assert_output --partial 'Operation not permitted'
}

@test "host verbs are hosts too and are told reservation_conflict" {
  serve d --memory 1M --layer reserve
  pr register d --host-key a --new-key 1 >/dev/null
  pr reserve d --host-key a --key 1 --type exclusive_access >/dev/null
  expect_error reservation_conflict 4 pv-disk read d --sector 0
  expect_error reservation_conflict 4 pv-disk zero d --sector 0 --count 1 --host-key b
  expect_error reservation_conflict 4 pv-disk reserve reserve d --host-key b --key 1 --type \
    exclusive_access
  ok pv-disk zero d --sector 0 --count 1 --host-key a
  ok pr report d
  has '.reservation.registrants == [{"host":"a","key":"0x1","holds":true}]'
  has '.reservation.types | length == 6'
}

@test "with ptpl a reservation outlives a server that is killed, otherwise it does not" {
  truncate -s 1M d.img
  for ptpl in --ptpl ''; do
    serve d --image d.img --layer reserve:ptpl=keys.json
    # shellcheck disable=SC2086
    pr register-ignore d --host-key a --new-key 1 $ptpl >/dev/null
    pr reserve d --host-key a --key 1 --type write_exclusive >/dev/null
    kill -KILL "$(pv-disk info d -o pid </dev/null)"
    pv-disk close d --force </dev/null >/dev/null
    serve d --image d.img --layer reserve:ptpl=keys.json
    run pr report d
    if [ -n "$ptpl" ]; then has '.reservation.holder == "a"'; else has '.reservation.holder == null'; fi
    pv-disk close d </dev/null >/dev/null
  done
}

@test "what no reservation can be made with is refused in one line" {
  serve d --memory 1M --layer reserve
  serve plain --memory 1M
  expect_error unsupported 4 pv-disk reserve report plain
  expect_error usage 2 pv-disk reserve whatever d
  expect_error usage 2 pv-disk reserve register d --new-key 1
  expect_error usage 2 pv-disk reserve register d --host-key a
  expect_error usage 2 pv-disk reserve register d --host-key a --new-key 1x
  expect_error usage 2 pv-disk reserve register d --host-key 'a b' --new-key 1
  expect_error usage 2 pv-disk reserve reserve d --host-key a --key 1 --type no
  expect_error usage 2 pv-disk reserve clear d --host-key a --key 1 --ptpl
  expect_error invalid 4 pv-disk reserve register d --host-key a --new-key 1 --ptpl
  expect_error reservation_conflict 4 pv-disk reserve clear d --host-key a --key 1
  run as_host 'no/name' 'read 0 512'
  assert_failure
  truncate -s 1M a.img b.img
  expect_error usage 2 pv-disk serve s --image a.img --layer stripe:with=b.img --layer reserve
  echo nonsense >bad
  expect_error invalid 4 pv-disk serve s --image a.img --layer reserve:ptpl=bad
}

@test "preempt-and-abort ends the request of another host with an error" {
  serve d --memory 1M --layer reserve --layer delay:ms=20000,ops=write
  pr register d --host-key a --new-key 1 >/dev/null
  pr register d --host-key b --new-key 2 >/dev/null
  as_host b 'write -P 2 0 4k' >b.out 2>&1 &
  until_true in_flight d
  run pr preempt-abort d --host-key a --key 1 --new-key 2 --type write_exclusive
  assert_success
  has '.reservation.aborted == 1'
  pv-disk tune d delay:ms=0 </dev/null >/dev/null
  wait
  grep -q 'write failed' b.out
}
