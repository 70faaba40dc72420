#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# --restart: a server that is killed comes back, and knows what the one before knew.

load helper
setup() { pv_setup; }
teardown() { pv_teardown; }

# Kills the server of disk `t` and waits until another one answers.
kill_server() {
  local before
  before=$(pv-disk info t -o pid </dev/null)
  kill -KILL "$before"
  until_true another_answers "$before"
}
another_answers() {
  local now
  now=$(pv-disk info t -o pid </dev/null 2>/dev/null) && [ "$now" != "$1" ] &&
    pv-disk size t </dev/null >/dev/null 2>&1
}

@test "a server that is killed is started again, at the same sockets, with its data" {
  truncate -s 1M t.img
  ok pv-disk serve t --image t.img --restart
  uri=$(jq -r .disk.uri <<<"$output")
  qemu-io -f raw -c 'write -P 0x5a 8192 4096' -c flush "$uri" >/dev/null
  kill_server
  run qemu-io -f raw -c 'read -P 0x5a 8192 4096' "$uri"
  assert_success
  refute_output --partial failed
  ok pv-disk info t
  assert_equal "$(jq .disk.restarts <<<"$output")" 1
  kill_server
  ok pv-disk info t
  assert_equal "$(jq .disk.restarts <<<"$output")" 2
}

@test "rules, how far they have come, marks, journal and counters survive the server" {
  truncate -s 1M t.img
  ok pv-disk serve t --image t.img --restart
  uri=$(jq -r .disk.uri <<<"$output")
  pv-fault add --disk t </dev/null >/dev/null --rule '{"id":"twice","match":{"op":["read"]},
    "when":{"after":1,"times":2},"do":{"kind":"error"},"then":{"state":"hurt"}}'
  pv-fault add --disk t --rule '{"id":"late","when":{"state":"healed"},"do":{"kind":"error"}}' </dev/null >/dev/null
  pv-fault mark --disk t midway </dev/null >/dev/null
  pv-disk read t --count 1 </dev/null >/dev/null
  run pv-disk read t --count 1 </dev/null
  assert_failure
  reads=$(pv-disk stats t </dev/null | jq -c '.. | objects | select(has("io_errors")) | [.read, .io_errors]')
  [ -n "$reads" ]
  kill_server
  assert_equal "$(pv-disk stats t </dev/null | jq -c '.. | objects | select(has("io_errors")) | [.read, .io_errors]')" "$reads"
  ok pv-fault list --disk t
  assert_equal "$(jq -c 'select(.rule.id == "twice") | [.rule.matched, .rule.fired, .rule.left]' <<<"$output")" '[2,1,1]'
  assert_equal "$(jq -s 'length' <<<"$output")" 2
  # The second and last firing, and then none.
  run pv-disk read t --count 1 </dev/null
  assert_failure
  ok pv-disk read t --count 1
  ok pv-fault journal --disk t
  assert_equal "$(jq -c 'select(.event.rule == "twice") | .event.n' <<<"$output" | tr '\n' ' ')" '1 2 '
  # The state that a firing brought is there, and so is the mark.
  ok pv-fault clear --disk t twice
  pv-fault add --disk t --rule '{"id":"hurts","when":{"state":"hurt","since":"midway"},"do":{"kind":"error"}}' </dev/null >/dev/null
  kill_server
  ok pv-fault list --disk t
  assert_equal "$(jq -r .rule.id <<<"$output" | tr '\n' ' ')" 'late hurts '
  expect_error io 4 pv-disk read t --count 1
}

# The server is gone, and nobody starts another one.
stays_ended() {
  until_true none_left
  sleep 0.3
  assert_equal "$(pv_processes)" ''
}
none_left() { [ -z "$(pv_processes)" ]; }

@test "closing a disk ends its server for good, also one that has just died" {
  truncate -s 1M t.img
  ok pv-disk serve t --image t.img --restart
  kill_server
  ok pv-disk close t
  stays_ended
  ok pv-disk serve t --image t.img --restart
  kill -KILL "$(pv-disk info t -o pid </dev/null)"
  ok pv-disk close t
  stays_ended
}

@test "what would die with the server cannot be served with --restart" {
  expect_error usage 2 pv-disk serve t --memory 1M --restart
  truncate -s 1M t.img
  expect_error usage 2 pv-disk serve t --image t.img --layer cow --restart
}

@test "a scratch disk and a template's copy are found again" {
  for source in '--scratch 1M' '--template o.img'; do
    truncate -s 1M o.img
    # shellcheck disable=SC2086
    ok pv-disk serve t $source --restart
    uri=$(jq -r .disk.uri <<<"$output")
    qemu-io -f raw -c 'write -P 0x77 0 4096' "$uri" >/dev/null
    kill_server
    run qemu-io -f raw -c 'read -P 0x77 0 4096' "$uri"
    refute_output --partial failed
    ok pv-disk close t
  done
}

@test "a log is gone on with by the server that is started again" {
  truncate -s 1M t.img
  ok pv-disk serve t --image t.img --restart --layer record:file=log
  printf one | pv-disk write t
  kill_server
  printf two | pv-disk write t --offset 4096
  ok pv-disk close t
  truncate -s 1M out.img
  run -0 --separate-stderr pv-verify replay log out.img </dev/null
  [[ $stderr == *'gaps (1)'* ]]
  assert_equal "$(head -c 4099 out.img | tail -c 3)" two
}

@test "a disk that is closed when its server has just been killed leaves nothing, its image is free" {
  local _
  truncate -s 1M t.img
  for _ in {1..12}; do
    ok pv-disk serve t --image t.img --restart
    kill -KILL "$(jq .disk.pid <<<"$output")"
    ok pv-disk close t
    assert_equal "$(pv_processes)$(ls "$PV_RUN_DIR/obj")" ''
  done
}

@test "a disk that is detached when its server has just been killed stays detached, its image is free" {
  local _
  truncate -s 1M t.img
  pv-vm create v </dev/null >/dev/null
  for _ in {1..8}; do
    ok pv-disk attach v --id t --image t.img --restart
    kill -KILL "$(jq .disk.pid <<<"$output")"
    ok pv-disk detach v/t
    assert_equal "$(pv_processes)$(pv-disk info v/t -o state </dev/null)" detached
  done
}
