#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# fill and check from outside: damage by dd and by faults of a served disk is found and named. If
# this fails, a disk that loses or misplaces writes counts as good.

load helper

setup() { pv_setup; }
teardown() { pv_teardown; }

# bad: "class offset" of each bad block in $output.
bad() { jq -r 'select(.bad).bad | "\(.class) \(.offset_bytes)"' <<<"$output"; }

@test "check names what dd has done to each block" {
  truncate -s 16M t.img
  pv-verify fill t.img --generation 1 >/dev/null </dev/null
  cp t.img old.img
  pv-verify fill t.img --generation 2 >fill.json </dev/null
  ok pv-verify check --in fill.json
  has '.summary | .good and .blocks == 4096 and .bad == 0'
  over() { dd of=t.img conv=notrunc status=none "$@"; }
  over if=old.img bs=4k skip=1 seek=1 count=1
  over if=/dev/zero bs=4k seek=2 count=1
  over if=t.img bs=4k skip=1000 seek=3 count=1
  over if=old.img bs=512 skip=35 seek=35 count=2
  printf '\x01' | over bs=1 seek=$((5 * 4096 + 1000))
  head -c 4096 /dev/urandom | over bs=4k seek=6
  run -1 --separate-stderr pv-verify check --in fill.json
  assert_equal "$stderr" ''
  assert_equal "$(bad | paste -sd' ')" "stale 4096 zeroed 8192 misdirected 12288 torn 16384$(
    ) bit_flip 20480 other 24576"
  has '.summary | .bad == 6 and ([.stale, .zeroed, .misdirected, .torn, .bit_flip, .other]
    | all(. == 1))'
  jq -se '[.[].bad | select(.)] | .[0].generation == 1 and .[2].from_bytes == 4096000
    and .[3].generation == 1 and .[3].first_sectors == [3, 4] and .[4].bits <= 8' <<<"$output"
  run -1 pv-verify check --in fill.json --text
  assert_line --regexp '^ +12288 misdirected +belongs to 4096000$'
  run -1 pv-verify check --in fill.json --summary -o summary.bad
  assert_output 6
}

@test "check finds what a faulty disk has made of a filling" {
  serve d --memory 2M
  # At the last write, so that no other comes after it. One that is misdirected to where it
  # belongs does not count.
  local rules=(
    'stale drop_write --nth 512'
    'stale misdirect_write --set to_bytes=81920 --nth 511'
    'misdirected misdirect_write --set to_bytes=81920 --nth 511'
    'torn torn_write --set keep=first --set units=3 --nth 512'
    'bit_flip corrupt_write --set pattern=bit --set count=3 --nth 512'
    'zeroed corrupt_write --set pattern=zeroes --nth 512'
    'misdirected corrupt_write --set pattern=foreign --set from_bytes=40960 --nth 512'
  )
  local rule class where
  for rule in "${rules[@]}"; do
    class=${rule%% *}
    pv-verify fill d --generation 1 </dev/null >/dev/null
    # shellcheck disable=SC2086  # words of the rule
    pv-fault add ${rule#* } --disk d --op write --seed 3 </dev/null >/dev/null
    pv-verify fill d --generation 2 --order random --jobs 1 </dev/null >fill.json
    where=$(pv-fault journal --disk d </dev/null | jq -s '[.[].event | select(.)][-1].offset_bytes')
    run --separate-stderr pv-verify check --in fill.json
    [ "$status" -eq 1 ] || fail "nothing found after $rule"
    [[ "$(bad)" == *"$class "* ]] || fail "no $class after $rule: $(bad)"
    if [[ $rule == misdirected*to_bytes* ]]; then where=81920; fi
    [[ "$(bad)" == *"$class $where"* ]] || fail "not at $where after $rule: $(bad)"
    pv-fault clear --disk d </dev/null >/dev/null
  done
}

@test "an interrupted filling goes on, and --rate holds it back" {
  truncate -s 8M t.img
  run -6 pv-verify fill t.img --generation 3 --rate 1M --timeout 2s
  run -1 pv-verify check t.img --generation 3 --summary
  has '.summary | .bad > 1000 and .bad < 2048 and .zeroed == .bad'
  local left
  left=$(jq .summary.bad <<<"$output")
  ok pv-verify fill t.img --generation 3 --resume
  has ".fill | .written_blocks == $left and .kept_blocks == 2048 - $left"
  ok pv-verify check t.img --generation 3
  ok pv-verify fill t.img --generation 3 --resume
  has '.fill.written_blocks == 0'
}

@test "a fraction in random order, larger blocks, another seed, in qcow2" {
  qemu-img create -q -f qcow2 t.qcow2 16M
  ok pv-verify fill t.qcow2 --fraction 0.25 --seed 42 --block 16k --order random
  has '.fill | .seed == "42" and .block_bytes == 16384 and .blocks > 200 and .blocks < 312'
  printf '%s' "$output" >fill.json
  ok pv-verify check --in fill.json
  has ".summary.blocks == $(jq .fill.blocks fill.json)"
  qemu-img convert -f qcow2 -O raw t.qcow2 t.img
  ok pv-verify check t.img --fraction 0.25 --seed 42 --block 16k
  run -1 pv-verify check t.img --seed 42 --block 16k --summary
  has '.summary.zeroed == .summary.bad'
  run -1 pv-verify check t.img --fraction 0.25 --seed 42 --block 16k --generation 2 --summary
  has '.summary | .stale == .blocks'
}

@test "fill and check of a disk that comes down the pipeline, and of one behind a URI" {
  run -0 bash -c 'pv-disk serve d --scratch 4M | pv-verify fill | pv-verify check'
  has '.summary | .good and .blocks == 1024'
  ok pv-verify check "$(uri d)"
  head -c 4096 /dev/zero | pv-disk write d --offset 40960 >/dev/null
  run -1 pv-verify check d
  assert_equal "$(bad)" 'zeroed 40960'
}

@test "fill and check: what they refuse" {
  truncate -s 1M t.img
  expect_error usage 2 pv-verify fill t.img --block 1000
  expect_error usage 2 pv-verify fill t.img --generation 0
  expect_error usage 2 pv-verify fill t.img --fraction 0
  expect_error usage 2 pv-verify fill t.img --fraction 1.5
  expect_error usage 2 pv-verify fill t.img --order backwards
  expect_error usage 2 pv-verify fill t.img --rate 0
  expect_error no_image 4 pv-verify fill nosuch
  truncate -s 1k small.img
  expect_error invalid 4 pv-verify check small.img
  expect_error bad_document 3 bash -c 'echo "{\"v\":1}" | pv-verify check'
  expect_error bad_document 3 pv-verify check
  serve d --image t.img
  expect_error in_use 4 pv-verify fill t.img
  pv-fault add eio_write --disk d </dev/null >/dev/null
  expect_error io 4 pv-verify fill d
  serve r --image "$(cp t.img r.img; echo r.img)" --read-only
  expect_error read_only 4 pv-verify fill r
}
