#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, the faults of the seed (rows A14, A18-A28, A33) do not behave as a test relies on:
# what fails, what goes on, what composes, what a clear gives back.

load helper
setup() {
  pv_setup
  serve d --scratch 1M
}
teardown() { pv_teardown; }

@test "A19 A14: eio_read fails every read before any I/O and leaves writes alone" {
  ok pv-fault add --disk d eio_read
  has '.rule.id == "eio_read" and .disk.faults == ["eio_read"]'
  expect_error io 4 pv-disk read d
  has '.error | .errno == "EIO" and .injected and .rule == "eio_read" and .phase == "before"'
  run -4 --separate-stderr pv-disk read d --sector 9 --raw
  assert_output ''
  ok bash -c 'head -c 512 /dev/urandom | pv-disk write d'
  ok pv-disk stats d
  has '.disk.stats.layers.backend.bytes_backing == 0'
}

@test "A20 A18: eio_write fails every write, nothing is written, reads go on" {
  ok pv-fault add --disk d eio_write
  expect_error io 4 bash -c 'printf "%512s" x | pv-disk write d'
  has '.error | .errno == "EIO" and .injected and .rule == "eio_write"'
  expect_error io 4 bash -c 'printf x | pv-disk write d --offset 3'
  pv-disk read d --raw | cmp -n 512 - /dev/zero
}

@test "A21: slow makes a read and a write last at least 50 ms, and a flush not part of it" {
  ok pv-fault add --disk d slow
  local start
  start=$(date +%s%N)
  ok pv-disk read d
  assert [ "$(since_ms "$start")" -ge 50 ]
  start=$(date +%s%N)
  ok bash -c 'printf x | pv-disk write d'
  assert [ "$(since_ms "$start")" -ge 50 ]
  ok pv-disk flush d
  ok pv-fault list --disk d
  has '.rule.id == "slow" and .rule.do == {"kind":"delay","delay_ms":50} and .rule.fired == 2'
}

@test "A24: slow and eio_read together delay, then fail" {
  ok pv-fault add --disk d slow
  ok pv-fault add --disk d eio_read
  local start
  start=$(date +%s%N)
  expect_error io 4 pv-disk read d
  assert [ "$(since_ms "$start")" -ge 50 ]
  has '.error.rule == "eio_read" and .error.phase == "before"'
  ok pv-fault journal --disk d
  assert_equal "$(jq -r 'select(.event).event | "\(.n) \(.kind) \(.rule)"' <<<"$output")" \
    $'1 delay slow\n2 error eio_read'
}

@test "A22: a fault that is set while a read sleeps takes effect after the delay" {
  ok pv-fault add --disk d delay --id nap --delay 60s --op read
  pv-disk read d </dev/null >out 2>err &
  local reader=$!
  wait_for_event nap
  ok pv-fault add --disk d eio_read
  ok pv-fault clear --disk d nap
  wait "$reader" && fail "it should have failed"
  has '.error | .code == "io" and .phase == "after_delay" and .rule == "eio_read"' "$(cat out)"
}

# A decision of that rule is in the journal.
wait_for_event() { pv-fault wait "$1" --disk d </dev/null >/dev/null; }

@test "A23: a fault set while a write is in flight fails it, and says that it has happened" {
  # The delay layer below the fault layer holds the I/O itself.
  serve s --scratch 1M --layer fault --layer stats:name=io \
    --layer delay:ms=20000,ops=write
  ok pv-fault add --disk s slow
  printf '%512s' x | pv-disk write s >out 2>err &
  local writer=$!
  until_true in_layer s # past the 50 ms of `slow`
  ok pv-fault add --disk s eio_write
  ok pv-disk tune s delay:ms=0
  wait "$writer" && fail "it should have failed"
  has '.error | .phase == "after_io" and .rule == "eio_write"' "$(cat out)"
  ok pv-fault clear --disk s
  assert_equal "$(pv-disk read s --raw </dev/null | tail -c 1)" x
  ok pv-fault journal --disk s
  has '.summary.events == 2' # the delay and the error
  assert_equal "$(jq -c 'select(.event.phase) | .event.io_done' <<<"$output")" true
}

# The layer `io` of that disk has passed a request on and has no answer yet.
in_layer() {
  pv-disk stats "$1" </dev/null | jq -e '.disk.stats.layers.io.in_flight == 1' >/dev/null
}

@test "clearing a fault while a request sleeps lets it through" {
  ok pv-fault add --disk d delay --id nap --delay 60s --op read
  ok pv-fault add --disk d eio_read
  pv-disk read d </dev/null >out 2>err &
  local reader=$!
  wait_for_event nap
  ok pv-fault clear --disk d eio_read
  ok pv-fault clear --disk d nap
  wait "$reader"
  has '.data.length_bytes == 512' "$(cat out)"
}

@test "A24 A26: faults are a set: adding one twice changes nothing, counters go on" {
  ok pv-fault add --disk d eio_read
  expect_error io 4 pv-disk read d
  ok pv-fault add --disk d eio_read
  has '.rule.fired == 1'
  ok pv-fault list --disk d
  assert_equal "$(jq -c .rule.id <<<"$output")" '"eio_read"'
}

@test "an id that is taken by a different rule is refused" {
  ok pv-fault add --disk d error --id x --op read
  expect_error duplicate_name 4 pv-fault add --disk d error --id x --op write
  ok pv-fault add --disk d error --id x --op read
}

@test "A25: an unknown mode is refused with the list of valid ones" {
  expect_error bad_mode 2 pv-fault add --disk d eio_flush
  has '.error.valid | contains(["eio_read", "eio_write", "slow"])'
  [[ $stderr == *eio_read*eio_write*slow* ]]
  ok pv-fault active --disk d
  has '.disk.faults == []'
}

@test "A27: clear removes all and later I/O is normal" {
  local mode
  for mode in eio_read eio_write slow; do ok pv-fault add --disk d "$mode"; done
  ok pv-fault clear --disk d
  has '(.cleared | map(.id)) == ["eio_read","eio_write","slow"] and .disk.faults == []'
  ok pv-disk read d
  ok bash -c 'printf x | pv-disk write d'
  ok pv-fault clear --disk d
  has '.cleared == []'
}

@test "clear by id removes that one and no other" {
  ok pv-fault add --disk d eio_read
  ok pv-fault add --disk d eio_write
  ok pv-fault clear --disk d eio_read
  ok pv-disk read d
  expect_error io 4 bash -c 'printf x | pv-disk write d'
  expect_error no_such_rule 4 pv-fault clear --disk d eio_read
  has '.error.valid == ["eio_write"]'
}

@test "A28: active shows the names sorted, list the rules with their counters" {
  ok pv-fault add --disk d slow
  ok pv-fault add --disk d eio_write
  ok pv-fault add --disk d eio_read --id a --times 3
  ok pv-fault active --disk d
  has '.disk.faults == ["a","eio_write","slow"]'
  expect_error io 4 pv-disk read d
  ok pv-fault list --disk d
  assert_equal "$(jq -c '.rule | [.id, .matched, .fired, .left]' <<<"$output" | xargs)" \
    "$(printf '%s ' '[slow,1,1,null]' '[eio_write,0,0,null]' '[a,1,1,2]' | xargs)"
}

@test "A33: the faults of one disk leave the others alone" {
  serve other --scratch 1M
  ok pv-fault add --disk d eio_read
  ok pv-disk read other
  expect_error io 4 pv-disk read d
  ok pv-fault list --disk other
  assert_output ''
}

@test "faults need a fault layer: without one the disk is not_mediated and works" {
  serve bare --scratch 1M --no-fault
  expect_error not_mediated 4 pv-fault add --disk bare eio_read
  expect_error not_mediated 4 pv-fault list --disk bare
  ok pv-disk read bare
  expect_error usage 2 pv-disk serve x --scratch 1M --no-fault --layer fault
}

@test "kinds needs no disk and shows what each front end delivers" {
  ok pv-fault kinds
  [ "$(wc -l <<<"$output")" -ge 30 ]
  assert_equal "$(jq -s '[.[].kind | select(.rule | not) | .host, .nbd, .guest] | all' <<<"$output")" true
  assert_equal "$(jq -r .kind.name <<<"$output" | tail -n 3 | xargs)" 'eio_read eio_write slow'
}

@test "the rule of a list can be fed back, on another disk too" {
  serve e --scratch 1M
  ok pv-fault add --disk d error --op write --range 4k+4k --times 2 --probability 0.5 \
    --seed 18446744073709551615
  local rule
  rule=$(pv-fault list --disk d </dev/null | jq -c .rule)
  ok pv-fault add --disk e --rule "$rule"
  assert_equal "$(pv-fault list --disk e </dev/null | jq -c .rule)" "$rule"
}

@test "--timeout gives up on a request that sleeps, with its exit class, and the disk lives on" {
  ok pv-fault add --disk d delay --delay 20s --op read
  expect_error timeout 6 pv-disk read d --timeout 100ms
  ok pv-fault clear --disk d
  ok pv-disk read d
}

@test "a fault set during the I/O of a disk that had no rule is met after the I/O" {
  serve e --memory 1M --layer fault --layer delay:ms=20000
  qio e 'write -P 7 0 512' >out 2>&1 &
  until_true in_flight e
  pv-fault add eio_write --disk e >/dev/null
  pv-disk tune e delay:ms=0 >/dev/null
  wait
  run cat out
  assert_output --partial 'Input/output error'
  ok pv-fault journal --disk e
  has '.summary.events == 1'
  assert_equal "$(head -n 1 <<<"$output" | jq -r '.event | "\(.phase) \(.io_done)"')" "after_io true"
}

@test "a disk without a fault layer refuses every fault verb" {
  serve e --memory 1M --no-fault
  expect_error not_mediated 4 pv-fault add eio_read --disk e
  expect_error not_mediated 4 pv-fault active --disk e
  expect_error not_mediated 4 pv-fault list --disk e
  expect_error not_mediated 4 pv-fault clear --disk e
  expect_error not_mediated 4 pv-fault journal --disk e
}
