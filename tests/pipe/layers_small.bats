#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If these fail, what readonly, stats, discard or fua does is not what tools outside can see.

load helper
setup() { pv_setup; }
teardown() { pv_teardown; }

@test "readonly: NBD shows it, QEMU cannot write, the image is untouched" {
  truncate -s 1M "$BATS_TEST_TMPDIR/t.img"
  ok pv-disk serve d --image "$BATS_TEST_TMPDIR/t.img" --layer readonly
  nbdinfo --is read-only "$(uri d)"
  run ! qio d 'write -P 7 0 4k'
  expect_error read_only 4 pv-disk zero d --all
  ok cmp -n 1048576 /dev/zero "$BATS_TEST_TMPDIR/t.img"
}

@test "stats: what qemu-io did is counted and timed, and starts anew" {
  ok pv-disk serve d --memory 1M --layer stats:name=above --layer delay:ms=100,ops=write \
    --layer stats:name=below
  qio d 'write 0 64k' 'write 64k 64k' 'read 0 4k' 'flush'
  ok pv-disk stats d
  has '.disk.stats.layers.above.write | .completed == 2 and .bytes == 131072 and .p50_us >= 100000'
  has '.disk.stats.layers.below.write | .completed == 2 and .p50_us < 100000'
  ok pv-disk stats d --reset
  ok pv-disk stats d
  has '.disk.stats.layers.above | has("write") | not'
  ok pv-disk serve plain --memory 1M
  expect_error unsupported 4 pv-disk stats plain --reset
}

@test "discard: ignored is not offered over NBD, noise comes back to QEMU, zeroes are zeroes" {
  ok pv-disk serve i --memory 1M --layer discard:behaviour=ignored
  run ! nbdinfo --can trim "$(uri i)"
  ok pv-disk serve n --memory 1M --layer discard:behaviour=unspecified,noise=3
  qio n 'write -P 7 0 64k' 'discard 0 32k'
  run ! qio n 'read -P 0 0 32k'
  run ! qio n 'read -P 7 0 32k'
  qio n 'read -P 7 32k 32k'
  ok pv-disk serve z --memory 1M --layer discard:behaviour=zeroes --layer discard:behaviour=unspecified,noise=3
  qio z 'write -P 7 0 64k' 'discard 0 32k' 'read -P 0 0 32k' 'read -P 7 32k 32k'
}

@test "fua: taken away it is not offered, and QEMU flushes instead" {
  ok pv-disk serve f --memory 1M --layer fua:mode=ignored --layer stats
  run ! nbdinfo --can fua "$(uri f)"
  qio f 'write -f 0 4k'
  ok pv-disk stats f
  has '.disk.stats.layers.stats.flush.completed >= 1'
  ok pv-disk serve h --memory 1M --layer fua:mode=honoured --layer stats
  nbdinfo --can fua "$(uri h)"
  qio h 'write -f 0 4k'
  ok pv-disk stats h
  has '.disk.stats.layers.stats | .write.completed == 1 and .flush.completed >= 1'
}

@test "layers: the verb lists every layer with its keys" {
  ok pv-disk layers
  [ "$(jq -r .layer.name <<<"$output" | sort | tr '\n' ' ')" = "$(jq -r .layer.name <<<"$output" | tr '\n' ' ')" ]
  jq -se 'map(.layer) | any(.name == "delay" and any(.keys[]; .key == "ms"))' <<<"$output"
  ok pv-disk layers --text
  [[ $output == *readonly* ]]
}

@test "layers: unknown names and keys list the valid ones" {
  expect_error usage 2 pv-disk serve d --memory 1M --layer nosuch
  [[ $output == *readonly*stats* ]]
  expect_error usage 2 pv-disk serve d --memory 1M --layer discard:size=1
  [[ $output == *behaviour*granularity*noise* ]]
}
