#!/usr/bin/env bats
# The guest's clock, and its console: read, followed and joined.

load helper

setup() { pv_setup; }
teardown() { pv_teardown; }

@test "clock: it is read, set and moved both ways, by less than a second too" {
  need_guest
  pv-vm create v | pv-vm boot >/dev/null
  ok pv-vm clock v get
  has '.clock | (.t_ns | type) == "string" and (.host_t_ns | type) == "string"'
  # A VM begins with the host's time.
  before=$(jq -r .clock.t_ns <<<"$output") host=$(jq -r .clock.host_t_ns <<<"$output")
  python3 -c "import sys; d = abs($before - $host) / 1e9; print(d); sys.exit(d > 30)"
  ok pv-vm clock v set 1700000000.25
  has '.clock.set_ns == "1700000000250000000"'
  run -0 pv-vm run v --raw -- date +%Y-%m-%d
  assert_output 2023-11-14
  for move in 100.5 -200.25 0.001; do
    began=$(date +%s%N)
    a=$(pv-vm clock v get -o clock.t_ns)
    ok pv-vm clock v advance $move
    took=$(($(date +%s%N) - began))
    set_ns=$(jq -r .clock.set_ns <<<"$output")
    # The questions themselves take some time, which is no part of the move.
    python3 -c "d = ($set_ns - $a) / 1e9 - ($move); print(d); exit(not 0 <= d < $took / 1e9 + 0.5)"
  done
  for bad in nan inf -inf 1e3 '' 1.0000000001 99999999999999999999; do
    run -2 --separate-stderr pv-vm clock v set "$bad"
    run -2 --separate-stderr pv-vm clock v advance "$bad"
  done
  for words in 'set 99999999999999' 'advance -99999999999999'; do
    expect_error usage 2 pv-vm clock v $words
    [[ $stderr == *"'${words#* }' is out of range"* ]]
  done
  expect_error usage 2 pv-vm clock v
  expect_error usage 2 pv-vm clock v set
  expect_error usage 2 pv-vm clock v sideways 3
  expect_error invalid 4 pv-vm clock v set -1
  # The guest's agent sets no time after 2069.
  expect_error invalid 4 pv-vm clock v set 3155760000
  ok pv-vm clock v set 3155750000
}

@test "a guest without an agent: every verb that needs it says so in time" {
  need_guest
  guest_vm v
  pv-vm run v --timeout 2s -- sh -c 'rm /usr/bin/qemu-ga; killall qemu-ga' >/dev/null 2>&1 || true
  pv-vm wait v --event agent_down --since 0 >/dev/null
  expect_error no_agent 4 pv-vm clock v get --timeout 300ms
  expect_error no_agent 4 pv-vm clock v advance 1 --timeout 300ms
  expect_error no_agent 4 pv-vm put v /etc/passwd /tmp/x --timeout 300ms
  expect_error no_agent 4 pv-vm get v /etc/passwd x --timeout 300ms
  expect_error no_agent 255 pv-vm run v --timeout 300ms -- true
  expect_error no_agent 255 pv-vm run v --stream --timeout 300ms -- true
  run -4 --separate-stderr pv-vm tail v /etc/passwd --timeout 300ms
  [[ $stderr == *'agent does not answer'* ]]
  # What goes without it still does.
  pv-vm console v >/dev/null
}

@test "clock and every other agent verb name the state they cannot work in" {
  pv-vm create v >/dev/null
  expect_error wrong_state 4 pv-vm clock v get
  expect_error wrong_state 4 pv-vm put v /etc/passwd /tmp/x
  expect_error wrong_state 4 pv-vm get v /etc/passwd x
  run -4 --separate-stderr pv-vm tail v /etc/passwd
  [[ $stderr == *created* ]]
  run -4 --separate-stderr pv-vm console v --attach
  [[ $stderr == *created* ]]
}

@test "console: it is followed until the VM ends" {
  need_guest
  guest_vm v
  pv-vm console v --follow >out 3>&- &
  follower=$!
  pv-vm run v -- sh -c 'echo marker-1 >/dev/console' >/dev/null
  until_true grep -q marker-1 out
  pv-vm close v >/dev/null
  wait $follower
  run -4 --separate-stderr pv-vm console nothing --follow
}

@test "console: joined by one, by pipe or by terminal, and left by Ctrl-]" {
  need_guest
  guest_vm v
  # Something that listens on the console.
  pv-vm run v -- sh -c 'read -r x </dev/console; echo "heard $x" >/dev/console' >/dev/null 3>&- &
  mkfifo pipe
  pv-vm console v --attach <pipe >out 3>&- &
  joined=$!
  exec 7>pipe
  echo hello >&7
  until_true grep -q 'heard hello' out
  run --separate-stderr pv-vm console v --attach </dev/null
  [ "$status" -ne 0 ]
  [[ $stderr == *'attached by process'* ]]
  exec 7>&-
  wait $joined
  # On a terminal: raw while it lasts, put back afterwards.
  python3 - <<'EOF'
import os, pty, subprocess, termios
master, slave = pty.openpty()
before = termios.tcgetattr(slave)
child = subprocess.Popen(["pv-vm", "console", "v", "--attach"], stdin=slave, stdout=slave)
while termios.tcgetattr(slave)[3] & termios.ICANON:
    assert child.poll() is None
os.write(master, b"\x03\x1d")
assert child.wait(timeout=20) == 0
assert termios.tcgetattr(slave) == before
EOF
}
