#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a VM cannot be stopped, reset, switched off or watched as pv-vm(1) says.

load helper
setup() {
  pv_setup
  need_guest
}
teardown() { pv_teardown; }

boot() { guest_vm v; }
guest() { pv-vm run v --raw -- "$@"; }
uptime_cs() { guest cat /proc/uptime | cut -d' ' -f1 | tr -d .; }
events() { pv-vm events v | jq -r '.event | select(.) | .event' | tr '\n' ' '; }
last_event() { pv-vm events v | jq -s '[.[].event.seq // 0] | max'; }
# QEMU stopped from outside cannot answer; its supervisor can.
freeze_qemu() { kill -STOP "$(pv-vm info v -o pid)"; }

@test "a paused guest does not run, its clock stands still, and it goes on where it was" {
  boot
  run -0 pv-vm pause v -o state
  assert_output paused
  used=$(pv-vm info v -o vcpus | jq -c .)
  expect_error wrong_state 255 pv-vm run v -- true
  assert_equal "$(pv-vm info v -o vcpus | jq -c .)" "$used"
  run -0 pv-vm resume v -o state
  assert_output booted
  ok pv-vm run v -- true
}

@test "a VM that somebody stops by QMP is paused for everybody" {
  boot
  qmp=$(pv-vm info v -o qmp)
  say() {
    python3 - "$qmp" "$1" <<'PY'
import json, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); f = s.makefile('rw')
f.readline()
for command in 'qmp_capabilities', sys.argv[2]:
    f.write(json.dumps({'execute': command}) + '\n'); f.flush()
    while 'return' not in json.loads(f.readline()): pass
PY
  }
  last=$(last_event)
  say stop
  ok pv-vm wait v --event paused --since "$last"
  run -0 pv-vm info v -o state
  assert_output paused
  say cont
  ok pv-vm wait v --state booted
}

@test "a reset is warm: the same QEMU, a new boot, an empty /tmp, disks and console log kept" {
  truncate -s 1M t.img
  pv-vm create v | pv-disk attach --id vda --image t.img | pv-vm boot >/dev/null
  qemu=$(pv-vm info v -o pid)
  guest sh -c 'echo x >/tmp/before; echo kept | dd of=/dev/vda conv=fsync 2>/dev/null'
  guest sh -c 'echo "the first boot" >/dev/console'
  ok pv-vm reset v
  has '.vm.state == "booted" and .vm.reset_ms > 100'
  assert_equal "$(pv-vm info v -o pid)" "$qemu"
  run -1 guest test -e /tmp/before
  assert_equal "$(guest head -c 4 /dev/vda)" kept
  guest sh -c 'echo "the second boot" >/dev/console'
  assert_equal "$(pv-vm console v | grep -o 'the .* boot' | tr '\n' ,)" 'the first boot,the second boot,'
  # SeaBIOS makes more of it. That the agent has gone is seen before, between or after them.
  assert_equal "$(events | sed -E 's/(reset )+/reset /g; s/(reset )?agent_down reset /reset agent_down /')" \
    'boot agent_up vm_spawned reset agent_down agent_up '
}

@test "a guest that does not come back from a reset is said to, with its console" {
  boot
  freeze_qemu
  expect_error boot_timeout 6 pv-vm reset v --timeout 1s
  has '.error | has("console")'
}

@test "the power button: the guest shuts down itself, in order" {
  truncate -s 1M t.img
  boot
  plug vda --image t.img
  guest sh -c 'echo kept | dd of=/dev/vda 2>/dev/null'
  ok pv-vm power-button v
  has '.vm.state == "shutdown" and .vm.graceful and .vm.reason == "the guest powered off"'
  assert_equal "$(pv-disk read vda --sector 0 --raw | head -c 4)" kept
  has '.vm.state == "booted"' "$(pv-vm boot v)"
}

@test "a guest that ignores the power button goes on, or is ended by force" {
  boot
  guest sh -c 'kill -STOP $(pidof dd)'
  expect_error timeout 6 pv-vm power-button v --timeout 1s
  has '.vm.state == "booted"' "$(pv-vm info v)"
  ok pv-vm power-button v --timeout 1s --force
  has '.vm.state == "shutdown" and .vm.graceful == false'
}

@test "a guest that powers itself off is shutdown, from the first look on" {
  boot
  guest sh -c '(sleep 0.3; poweroff -f) >/dev/null 2>&1 &' || true # it may be off before that ends
  ok pv-vm wait v
  has '.vm.state == "shutdown" and .vm.reason == "the guest powered off"'
  has '.vm.state == "booted"' "$(pv-vm boot v --no-agent)"
}

@test "a command that a kernel panic ends says so" {
  boot
  expect_error agent 255 pv-vm run v -- sh -c 'echo c >/proc/sysrq-trigger; sleep 100'
  [[ $stderr == *"Kernel panic - not syncing"* ]]
}

@test "shutdown ends QEMU, says whether by force, and the VM can be booted again" {
  boot
  ok pv-vm shutdown v
  has '.vm.state == "shutdown" and .vm.forced == false and .vm.reason == "it was shut down"'
  ok pv-vm boot v --no-agent
  freeze_qemu
  ok pv-vm shutdown v
  has '.vm.state == "shutdown" and .vm.forced'
}

@test "wait: what was booted is never created again, so waiting for that ends at once" {
  pv-vm create v --no-agent >/dev/null
  ok pv-vm wait v --state created
  pv-vm boot v >/dev/null
  run -1 --separate-stderr pv-vm wait v --state created --timeout 20s
  has '.vm.state == "booted"'
  pv-vm shutdown v >/dev/null
  run -1 --separate-stderr pv-vm wait v --state created --timeout 20s
  has '.vm.state == "shutdown"'
  ok pv-vm wait v --state created,shutdown
}

@test "wait: for the end, a state, an event, a line of the console" {
  boot
  guest sh -c 'echo "one line of it" >/dev/console'
  ok pv-vm wait v --console '^one [a-z]+ of'
  has '.console.line == "one line of it"'
  expect_error timeout 6 pv-vm wait v --console 'this is never printed' --timeout 100ms
  expect_error timeout 6 pv-vm wait v --timeout 100ms
  last=$(last_event)
  pv-vm pause v >/dev/null
  pv-vm resume v >/dev/null
  ok pv-vm wait v --event resumed --since "$last"
  has ".event.seq == $((last + 2))"
  expect_error timeout 6 pv-vm wait v --event resumed --timeout 100ms
  pv-vm wait v --timeout 30s >ended &
  waiting=$!
  kill -KILL "$(pv-vm info v -o pid)"
  wait "$waiting"
  has '.vm.state == "dead" and .vm.signal == 9' "$(cat ended)"
  run -1 pv-vm wait v --state booted
  run -1 pv-vm wait v --event paused
}

@test "wait: bad conditions are one line, and a VM that is closed meanwhile ends it" {
  pv-vm create v >/dev/null
  expect_error usage 2 pv-vm wait v --state sleeping
  expect_error usage 2 pv-vm wait v --console '(' --timeout 1s
  expect_error usage 2 pv-vm wait v --since 3
  expect_error usage 2 pv-vm wait v --event x --state booted
  expect_error no_such_vm 4 pv-vm wait nosuch
  pv-vm wait v --state booted >doc 2>err &
  waiting=$!
  pv-vm wait v --state shutdown >end 2>/dev/null &
  other=$!
  # They watch the VM's directory.
  for pid in "$waiting" "$other"; do
    until_true grep -qs '^inotify wd' -r "/proc/$pid/fdinfo"
  done
  pv-vm close v >/dev/null
  status=0
  wait "$waiting" || status=$?
  wait "$other"
  assert_equal "$status" 4
  assert_equal "$(jq -r .error.code doc)" no_such_vm
  has .vm.closed "$(cat end)"
}

@test "events: followed as they come, the faults of the disks among them, to the end" {
  truncate -s 1M t.img
  pv-vm create v | pv-disk attach --id vda --image t.img | pv-vm boot | pv-fault add eio_read >/dev/null
  pv-vm events v --follow >events &
  following=$!
  guest dd if=/dev/vda of=/dev/null count=1 2>/dev/null || true
  truncate -s 1M u.img
  pv-disk attach v --id vdb --image u.img >/dev/null
  pv-disk detach v/vdb >/dev/null
  pv-vm pause v >/dev/null
  pv-vm shutdown v >/dev/null
  pv-vm close v >/dev/null
  wait "$following"
  # QEMU tells of the error at the same time as the disk of its fault.
  assert_equal "$(jq -r '.event | select(.) | .event' events | grep -v disk_error | awk '!seen[$0]++' | tr '\n' ' ')" \
    'boot agent_up vm_spawned fault disk_attached disk_detached paused shutdown vm_ended '
  assert_equal "$(jq -sc 'map(.event | select(.event == "fault") | .data | [.disk, .rule, .op])[0]' events)" \
    '["vda","eio_read","read"]'
  has '.summary.events > 7' "$(tail -1 events)"
}

@test "events: a later boot goes on counting, --since leaves out what was seen" {
  pv-vm create v | pv-vm boot >/dev/null
  pv-vm shutdown v >/dev/null
  pv-vm boot v >/dev/null
  assert_equal "$(pv-vm events v | jq -r '.event.seq // empty' | paste -sd' ')" '1 2 3 4 5 6 7 8'
  assert_equal "$(pv-vm events v --since 5 | jq -r '.event.seq // empty' | paste -sd' ')" '6 7 8'
  expect_error usage 2 pv-vm events v --since x
}

@test "vm_spawned is in the log before boot returns" {
  pv-vm create v >/dev/null
  run -0 bash -c 'pv-vm boot v >/dev/null && cat "$(dirname "$(pv-vm info v -o console)")/events.jsonl"'
  assert_output --partial '"event":"vm_spawned"'
}

@test "a kernel panic after the boot is an event with the kernel's words" {
  boot
  pv-vm wait v --event guest_panic --since 0 >found &
  waiting=$!
  guest sh -c 'sleep 0.2; echo 0 >/proc/sys/kernel/panic; echo -1 >/proc/sys/kernel/panic; echo c >/proc/sysrq-trigger' || true
  wait "$waiting"
  has '.event.data.message | startswith("Kernel panic - not syncing")' "$(cat found)"
}

@test "info counts what is going on: streams with who opened them, disk requests, CPU and memory" {
  truncate -s 1M t.img
  pv-vm create v | pv-disk attach --id vda --image t.img | pv-vm boot >/dev/null
  has '.vm.quiescent and .vm.open_streams == 0 and .vm.disk_requests == 0' "$(pv-vm info v)"
  has '.vm.rss_bytes > 50000000 and .vm.cpu_ms > 100 and (.vm.vcpus | length) == 1' "$(pv-vm info v)"
  pv-fault add --disk vda stall --op read >/dev/null </dev/null
  pv-vm run v -- dd if=/dev/vda of=/dev/null count=1 >/dev/null 2>&1 &
  running=$!
  asked() { [ "$(pv-vm info v -o disk_requests)" -gt 0 ]; }
  until_true asked
  has '.vm.quiescent == false and .vm.open_streams == 1' "$(pv-vm info v)"
  has '.vm.streams[0] | .kind == "run" and (.command | test("dd if=/dev/vda"))' "$(pv-vm info v)"
  pv-fault clear --disk vda >/dev/null
  pv-fault release --disk vda >/dev/null || true
  wait "$running"
  has '.vm.quiescent' "$(pv-vm info v)"
}
