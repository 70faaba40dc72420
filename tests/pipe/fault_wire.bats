#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a client that is cut off or lied to on the wire does not notice, or cannot come
# back, or one that is none of the rule's business is hit.

load helper
setup() {
  pv_setup
  serve d --scratch 8M
}
teardown() { pv_teardown; }

rule() { ok pv-fault add --disk d --rule "$1"; }

last_event() { pv-fault journal --disk d </dev/null | jq -c '.event | select(.)' | tail -n 1; }

@test "qemu-io loses its connection at each point, and what was written is there for the next" {
  local at
  ok qio d 'write -P 7 0 1M' flush
  for at in request before_reply reply; do
    rule '{"when":{"times":1},"match":{"op":["read"],"ranges":[[65536,4096]]},
           "do":{"kind":"disconnect","at":"'$at'"}}'
    run qio d 'read 64k 4k'
    assert_output --partial 'read failed: Input/output error'
    has '.kind == "disconnect" and .delivered == "DISCONNECTED" and .at == "'$at'"' "$(last_event)"
    run qio d 'read -P 7 0 1M'
    assert_output --partial 'read 1048576/1048576'
    refute_output --partial 'Pattern'
  done
}

@test "a write is lost when it is cut as a request, and kept when only its reply is" {
  ok pv-fault add --disk d --rule '{"match":{"op":["write"]},"when":{"times":1},
    "do":{"kind":"disconnect","at":"request"}}'
  run qio d 'write -P 1 0 4k'
  assert_output --partial 'write failed: Input/output error'
  run qio d 'read -P 0 0 4k'
  refute_output --partial 'Pattern'
  rule '{"match":{"op":["write"]},"when":{"times":1},"do":{"kind":"disconnect","at":"reply","bytes":7}}'
  run qio d 'write -P 2 0 4k'
  assert_output --partial 'write failed: Input/output error'
  run qio d 'read -P 2 0 4k'
  refute_output --partial 'Pattern'
}

@test "QEMU reconnects by itself after a cut and does not see it" {
  ok qio d 'write -P 7 0 1M'
  rule '{"match":{"op":["read"]},"when":{"times":1},"do":{"kind":"disconnect","at":"reply","bytes":1000}}'
  run qemu-io -t writeback -c 'read -P 7 0 1M' --image-opts \
    "driver=nbd,server.type=unix,server.path=$(sock d),reconnect-delay=10"
  assert_success
  assert_output --partial 'read 1048576/1048576'
  refute_output --partial 'Pattern'
  ok pv-fault list --disk d
  has '.rule.fired == 1 and .rule.matched == 2'
}

@test "new connections are cut before the first request, one that was there is not" {
  local at
  coproc held { qemu-io -f raw "$(uri d)" 2>&1; }
  local in=${held[1]} from=${held[0]} pid=$held_PID line
  echo 'read -P 0 0 4k' >&"$in"
  read -r -t 10 line <&"$from"
  for at in greeting options export; do
    rule '{"when":{"times":1},"do":{"kind":"disconnect","at":"'$at'"}}'
    # Not nbdinfo: a newer one tries again.
    run qemu-io -r -f raw -c length "$(uri d)"
    assert_failure
    has '.op == "connect" and .at == "'$at'" and .front == "nbd"' "$(last_event)"
    run nbdinfo --size "$(uri d)"
    assert_output 8388608
  done
  echo 'read -P 0 4k 4k' >&"$in"
  read -r -t 10 line <&"$from"
  [[ $line == *'ops; '* ]] && read -r -t 10 line <&"$from"
  [[ $line == *'read 4096/4096'* ]]
  echo quit >&"$in"
  wait "$pid"
}

@test "qemu-io refuses answers that break the protocol, and the next connection works" {
  local what
  # Not missing_data: QEMU 7.2 takes such a read for good.
  for what in magic cookie error_code chunk_type chunk_length garbage; do
    rule '{"match":{"op":["read"]},"when":{"times":1},"do":{"kind":"violate","what":"'$what'"}}'
    run qio d 'read -P 0 64k 64k'
    assert_output --partial 'read failed:'
    has '.delivered == "VIOLATION" and .what == "'$what'"' "$(last_event)"
    run qio d 'read -P 0 64k 64k'
    assert_output --partial 'read 65536/65536'
    refute_output --partial 'Pattern'
  done
  # QEMU takes the second for the answer to its next read, which was of other bytes.
  rule '{"match":{"op":["read"]},"when":{"times":1},"do":{"kind":"violate","what":"twice"}}'
  run qio d 'read -P 0 64k 64k' 'read -P 0 1M 64k'
  assert_output --partial 'read 65536/65536'
  assert_output --partial 'read failed:'
}

@test "a rule about connections that names requests is refused" {
  expect_error bad_rule 2 pv-fault add --disk d --rule \
    '{"match":{"op":["read"]},"do":{"kind":"disconnect","at":"greeting"}}'
  expect_error bad_rule 2 pv-fault add --disk d --rule \
    '{"do":{"kind":"disconnect","at":"nowhere"}}'
}
