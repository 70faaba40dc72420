#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Sweeps over every request of real programs. If this fails, mkfs.ext4 or SQLite loses data on our
# disks, or a disk that lies is not found.

load helper
setup() {
  pv_setup
  export TMPDIR="$PV_T"
}
teardown() {
  local left
  left=$(find "$PV_T" -maxdepth 1 -name 'pv-sweep.*'; awk -v t="$PV_T" 'index($2, t)' /proc/mounts)
  pv_teardown || return 1
  [ -z "$left" ] || { echo "left behind: $left"; return 1; }
}

k_mark='{"do":{"kind":"mark","name":"m"}}' # a rule that does no harm

need_fuse() {
  local why
  why=$("$BATS_TEST_DIRNAME/../crash/over_fuse" --probe) || skip "$why"
}

@test "every request of mkfs.ext4 fails once: it recovers or says so, and e2fsck agrees" {
  need_fuse
  sweep_program mkfs
  assert_equal "$(jq -s 'map(.sweep | select(.) | .k) == [range(1; length)]' <<<"$output")" true
  has '.summary.stopped == "fewer_than_k" and .summary.runs > 30 and .summary.outcomes.error_reported > 0
    and .summary.outcomes.recovered > 0'
}

@test "every request of SQLite fails once: no transaction that it acknowledged is lost or half there" {
  need_fuse
  sweep_program sqlite
  has '.summary.stopped == "fewer_than_k" and .summary.runs > 15 and .summary.outcomes.error_reported > 10'
}

@test "a write of mkfs.ext4 that is dropped, or of SQLite that is torn, is found; on an honest disk nothing is" {
  need_fuse
  run --separate-stderr "$BATS_TEST_DIRNAME/../crash/sweep" mkfs --mode drop_write --op write
  assert_equal "$status" 1
  has '.summary.stopped == "fewer_than_k" and .summary.outcomes.corrupted >= 5 and
    .summary.outcomes.hung == 0 and .summary.outcomes.crashed == 0'
  run --separate-stderr "$BATS_TEST_DIRNAME/../crash/sweep" sqlite --mode torn_write --op write --max 10
  assert_equal "$status" 1
  has '.summary.outcomes.corrupted >= 1 and .summary.outcomes.crashed == 0'
  sweep_program mkfs --rule "$k_mark"
  has '.summary.stopped == "fewer_than_k" and .summary.outcomes.recovered > 30'
  sweep_program sqlite --rule "$k_mark" --max 10
  has '.summary.outcomes.recovered == 10'
}

@test "what the two above look for is found: a torn file system, a lost or half transaction" {
  local load="$BATS_TEST_DIRNAME/../crash/sqlite_load.py"
  python3 "$load" make base.img 262144
  cp base.img disk
  python3 "$load" work disk notes
  ok python3 "$load" look disk notes
  run python3 "$load" look base.img notes
  assert_failure
  assert_output --partial 'transactions were acknowledged, 0 are there'
  dd if=/dev/zero of=disk bs=4096 seek=5 count=1 conv=notrunc status=none
  run python3 "$load" look disk notes
  assert_failure
  truncate -s 4M fs
  mkfs.ext4 -q fs
  dd if=/dev/zero of=fs bs=1024 seek=2 count=1 conv=notrunc status=none
  run e2fsck -fn fs
  assert_failure
}

sweep_program() {
  run --separate-stderr "$BATS_TEST_DIRNAME/../crash/sweep" "$@"
  jq -c '.sweep | select(.outcome == "corrupted" or .outcome == "hung" or .outcome == "crashed")' <<<"$output"
  assert_success
}
