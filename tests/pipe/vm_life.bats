#!/usr/bin/env bats
# VMs from create to close, and every way in which that can go wrong.

load helper

setup() { pv_setup; }
teardown() { pv_teardown; }

# gone PID: it has ended (and whoever inherited it has buried it).
gone() { until_true ended "$1"; }

@test "create starts nothing, and the name is taken" {
  run -0 pv-vm create v -o state
  assert_output created
  run -4 --separate-stderr pv-vm create v
  assert_equal "$(code_of)" duplicate_name
  run -0 pv-vm list -o name
  assert_output v
}

@test "a verb in the wrong state names the state and what is allowed" {
  pv-vm create v >/dev/null
  run -255 --separate-stderr pv-vm run v -- true
  assert_equal "$(jq -c '[.error.code, .error.state, .error.allowed]' <<<"$output")" \
    '["wrong_state","created",["booted"]]'
}

@test "close is idempotent and ends everything" {
  need_guest
  pv-vm create v --no-agent | pv-disk attach --id vda --scratch 1M | pv-vm boot >/dev/null
  qemu=$(pv-vm info v -o pid)
  server=$(pv-disk info vda -o pid)
  run -0 pv-vm close v -o closed
  assert_output true
  gone "$qemu"
  gone "$server"
  run -0 pv-vm close v -o closed
  assert_output false
}

@test "QEMU killed: the VM is dead, commands say so, close cleans up" {
  need_guest
  guest_vm v
  pv-vm run v -- sleep 1000 >doc 2>err &
  running=$!
  streams() { [ "$(pv-vm info v -o open_streams)" = 1 ]; }
  until_true streams
  kill -KILL "$(pv-vm info v -o pid)"
  status=0
  wait "$running" || status=$?
  assert_equal "$status" 255
  assert_equal "$(jq -r .error.code doc)" guest_died
  run -0 pv-vm info v -o state
  assert_output dead
  run -255 --separate-stderr pv-vm run v -- true
  assert_equal "$(code_of)" wrong_state
  run -0 pv-vm close v -o closed
  assert_output true
}

@test "supervisor killed: QEMU dies with it, the next command sees it" {
  need_guest
  pv-vm create v --no-agent | pv-vm boot >/dev/null
  qemu=$(pv-vm info v -o pid)
  kill -KILL "$(pv-vm info v -o supervisor_pid)"
  gone "$qemu"
  run -0 pv-vm info v -o state
  assert_output dead
  run -0 pv-vm close v
}

@test "a guest that never answers is a boot_timeout with its console, and nothing is left" {
  need_guest
  pv-vm create v --cmdline 'console=ttyS0 init=/bin/true-nothing rdinit=/bin/cat' >/dev/null
  run --separate-stderr pv-vm boot v --timeout 8s
  [[ "$(code_of)" = boot_timeout || "$(code_of)" = guest_died ]]
  [ "$(jq -r '.error.console | length' <<<"$output")" -gt 100 ]
  run -0 pv-vm info v -o state
  assert_output created
}

@test "an error is one line, but a person at a terminal sees the end of the console too" {
  need_guest
  pv-vm create v --file /init:='#!/bin/sh
exit 0' >/dev/null
  run -4 --separate-stderr pv-vm boot v -o state
  assert_equal "$(wc -l <<<"$stderr")" 1
  run -4 --separate-stderr pv-vm boot v --text
  assert_equal "$(wc -l <<<"$stderr")" 1
  run -4 script -qec 'pv-vm boot v' /dev/null
  assert_line --index 0 --partial 'pv-vm: VM '
  assert_line --regexp '^  .*Kernel Offset'
  refute_output --partial '\x0d'
  [ "${#lines[@]}" -le 11 ]
  run -4 script -qec 'pv-vm pause v' /dev/null
  assert_equal "${#lines[@]}" 1
}

@test "an agent that is gone is no_agent or agent, and the VM stays" {
  need_guest
  guest_vm v
  run pv-vm run v --timeout 5s -- sh -c 'kill -STOP $(pidof qemu-ga pv-runner)'
  run -255 --separate-stderr pv-vm run v --timeout 1s -- true
  [[ "$(code_of)" = no_agent || "$(code_of)" = agent || "$(code_of)" = timeout ]]
  run -0 pv-vm info v -o state
  assert_output booted
}

@test "no QEMU is exit 7, no guest image too" {
  pv-vm create v >/dev/null
  PV_QEMU=/nonexistent run -7 --separate-stderr pv-vm boot v
  assert_equal "$(code_of)" unavailable
  PV_CACHE_DIR=$PWD/empty PV_GUEST_DIR='' run -7 --separate-stderr pv-vm boot v
  assert_equal "$(code_of)" unavailable
  assert_equal "$(wc -l <<<"$stderr")" 1
}

@test "a kernel that is missing is reported with its path before QEMU starts" {
  mkdir guest
  echo x >guest/initrd
  pv-vm create v >/dev/null
  PV_GUEST_DIR=$PWD/guest run --separate-stderr pv-vm boot v
  [ "$status" -eq 7 ] || [ "$status" -eq 4 ]
  [[ "$stderr" == *guest/kernel* ]]
}

@test "bad names, sizes, profiles and accelerators are one line each" {
  for bad in '../x' '' 'a b' '.x' "$(printf 'x%.0s' $(seq 65))"; do
    run -2 --separate-stderr pv-vm create "$bad"
    assert_equal "$(wc -l <<<"$stderr")" 1
  done
  run -2 --separate-stderr pv-vm create v --memory 12Q
  run -2 --separate-stderr pv-vm create v --cpus 0
  run --separate-stderr pv-vm create v --profile nosuch
  [ "$status" -ne 0 ]
  [[ "$stderr" == *tiny* ]]
  run -4 --separate-stderr pv-vm info nosuch
  assert_equal "$(code_of)" no_such_vm
}

@test "an error document goes down the pipe untouched, with the class of its first stage" {
  run -4 --separate-stderr bash -c 'pv-vm boot nosuch | pv-fault add eio_read | pv-disk flush'
  assert_equal "$(code_of)" no_such_vm
  assert_equal "$(wc -l <<<"$stderr")" 1
}

@test "two boots of one VM at once: one wins, the other says wrong_state" {
  need_guest
  pv-vm create v >/dev/null
  pv-vm boot v >one 2>/dev/null & a=$!
  pv-vm boot v >two 2>/dev/null & b=$!
  status_a=0 status_b=0
  wait "$a" || status_a=$?
  wait "$b" || status_b=$?
  assert_equal "$((status_a + status_b))" 4
  assert_equal "$(cat one two | jq -r 'select(.error) | .error.code')" wrong_state
}

@test "scopes keep names apart, and an outer name may not be shadowed" {
  PV_SCOPE=ci pv-vm create v >/dev/null
  pv-vm create v >/dev/null
  run -0 pv-vm info v --scope ci/job -o scope
  assert_output ci
  run -4 --separate-stderr pv-vm create v --scope ci/job
  assert_equal "$(code_of)" duplicate_name
  PV_SCOPE=ci pv-vm close v >/dev/null
}

@test "boot interrupted by a signal leaves nothing running" {
  need_guest
  pv-vm create v >/dev/null
  pv-vm boot v >/dev/null 2>&1 &
  booting=$!
  until_true pgrep -f "qemu-system.*$PV_RUN_DIR" >/dev/null
  kill -KILL "$booting"
  wait "$booting" || true
  no_qemu() { ! pgrep -f "qemu-system.*$PV_RUN_DIR" >/dev/null; }
  until_true no_qemu
  run -0 pv-vm info v -o state
  assert_output created
}

@test "doctor says what this machine can do, as a table and as JSON" {
  run pv-vm doctor
  [ "$(jq -r '.doctor | type' <<<"$output")" = object ]
  run pv-vm doctor --text
  assert_output --partial qemu
}
