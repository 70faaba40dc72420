#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a disk server that is killed under load loses what a flush had acknowledged, or
# leaves an overlay that cannot be opened. `make crash ROUNDS=200` does the same for longer.

load helper
setup() { pv_setup; }
teardown() { pv_teardown; }

@test "five servers killed at random moments lose nothing that was flushed" {
  run "$BATS_TEST_DIRNAME/../crash/run" --rounds 5
  echo "$output"
  assert_success
  assert_line 'nothing that was flushed is lost'
}

@test "servers of vhost-user disks killed under a guest: no error, nothing lost" {
  run "$BATS_TEST_DIRNAME/../crash/vhost_kill" --count 8 --disks 4
  echo "$output"
  assert_success
  assert_line --partial 'no error, nothing lost'
}
