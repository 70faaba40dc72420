#!/usr/bin/env bats
# Networks between guests: names, links, isolation, and what happens when a side goes away.

load helper

setup() { pv_setup; }
teardown() { pv_teardown; }

in_vm() { pv-vm run "$1" --raw -- sh -c "$2"; }
member() { pv-vm lan info "$1" -o lan.members | jq -c ".[] | select(.vm == \"$2\") | $3"; }
pings() { in_vm "$1" "ping -c1 -W5 $2" >/dev/null; }

@test "three guests ping each other by name; links, latency, loss and detach are seen" {
  need_guest
  pv-vm lan create net >/dev/null
  pv-vm create a >/dev/null
  guest_vm b c
  pv-vm lan attach net a b >/dev/null # before its boot, and running
  pv-vm boot a >/dev/null
  ok pv-vm lan attach net c
  has '.lan.members | map(.connected) == [true, true, true]'
  has '.lan.members | map(.address | split(".")[3]) == ["1", "2", "3"]'
  for from in a b c; do for to in a b c; do pings "$from" "$to.net"; done; done

  # down: nothing passes, and the guest sees that its cable is out
  ok pv-vm lan link net b down
  assert_equal "$(in_vm b 'cat /sys/class/net/eth0/carrier')" 0
  run ! in_vm a 'ping -c1 -W1 b.net'
  pings a c.net
  assert_equal "$(member net b '.dropped.link_down > 0')" true
  ok pv-vm lan link net b up
  assert_equal "$(in_vm b 'cat /sys/class/net/eth0/carrier')" 1
  pings a b.net
  # and a reset finds all of it again
  ok pv-vm reset b
  pings a b.net

  # latency counts in both directions
  ok pv-vm lan link net b --latency 100ms
  run -0 in_vm a 'ping -c2 -W5 b.net'
  [[ "$output" =~ min/avg/max\ =\ ([0-9]+) ]]
  [ "${BASH_REMATCH[1]}" -ge 200 ]
  ok pv-vm lan link net b --latency 0 --loss 100%
  run ! in_vm a 'ping -c2 -i0.2 -W1 b.net'
  assert_equal "$(member net b '[.loss == 1, .dropped.loss > 0]')" '[true,true]'
  ok pv-vm lan link net b --loss 0

  # detach takes the card and the names, attach gives the same address
  address=$(member net c .address)
  ok pv-vm lan detach net c
  assert_equal "$(in_vm c 'ls /sys/class/net; grep -c net /etc/hosts')" $'lo\n0'
  run ! in_vm a 'grep c.net /etc/hosts'
  ok pv-vm lan attach net c
  assert_equal "$(member net c .address)" "$address"
  pings c a.net

  # a VM that is closed leaves
  pv-vm close c >/dev/null
  assert_equal "$(pv-vm lan info net -o lan.members | jq -c 'map(.vm)')" '["a","b"]'
  no_c() { ! in_vm a 'grep c.net /etc/hosts'; }
  until_true no_c
  pings a b.net
}

@test "two lans pass nothing between them; a reboot, a kill and a close of the lan are survived" {
  need_guest
  pv-vm lan create red >/dev/null
  pv-vm lan create blue >/dev/null
  pv-vm create a | pv-vm lan attach red >/dev/null
  guest_vm b
  pv-vm lan attach blue b >/dev/null
  pv-vm boot a >/dev/null
  # With addresses of one subnet on both sides still nothing comes through.
  in_vm a 'ip address add 192.168.1.1/24 dev eth0'
  in_vm b 'ip address add 192.168.1.2/24 dev eth0'
  run ! in_vm a 'ping -c2 -i0.2 -W1 192.168.1.2'
  assert_equal "$(member blue b .frames_out)" 0

  # in both: two cards, names of both
  ok pv-vm lan attach blue a
  has '.lan.members | length == 2'
  assert_equal "$(in_vm a 'ls -d /sys/class/net/eth* | wc -l')" 2
  pings a b.blue
  pings b a.blue
  run ! in_vm b 'grep red /etc/hosts'
  assert_equal "$(pv-vm info a -o lans | jq -c 'map(.name)')" '["red","blue"]'

  # the guest boots anew by itself: its network is there again
  in_vm b 'reboot -f' >/dev/null 2>&1 || true
  again() { in_vm b 'grep -q b.blue /etc/hosts && ping -c1 -W1 a.blue' >/dev/null 2>&1; }
  until_true again

  # QEMU killed: disconnected
  kill -KILL "$(pv-vm info b -o pid)"
  gone() { [ "$(member blue b .connected)" = false ]; }
  until_true gone
  ok pv-vm lan close blue
  has '.lan.closed'
  assert_equal "$(in_vm a 'ls -d /sys/class/net/eth* | wc -l')" 1
  run ! in_vm a 'grep blue /etc/hosts'

  # the switch killed: clear errors, and close cleans up
  slay "$(pv-vm lan info red -o lan.pid)"
  assert_equal "$(pv-vm lan info red -o lan.state)" dead
  expect_error server_dead 4 pv-vm lan link red a down
  expect_error server_dead 4 pv-vm lan attach red b
  ok pv-vm lan close red
  assert_equal "$(pv-vm info a -o lans)" '[]'
  assert_equal "$(in_vm a 'ls /sys/class/net')" lo
}

@test "a lan is made, listed and closed; closing what is not there is fine" {
  ok pv-vm lan create net
  has '.lan | .name == "net" and .scope == "default" and .state == "open" and .members == []'
  has '.lan.subnet | test("^10\\.[0-9]+\\.[0-9]+\\.0/24$")'
  expect_error duplicate_name 4 pv-vm lan create net
  PV_SCOPE=other pv-vm lan create net >/dev/null
  assert_equal "$(pv-vm lan list -o lan.scope)" default
  assert_equal "$(pv-vm lan list --all -o lan.subnet | sort -u | wc -l)" 2
  PV_SCOPE=other pv-vm lan close net >/dev/null
  run -0 pv-vm lan close net -o lan.closed
  assert_output true
  run -0 pv-vm lan close net -o lan.closed
  assert_output false
  expect_error no_such_lan 4 pv-vm lan info net
}

@test "addresses depend on names only" {
  for round in 1 2; do
    pv-vm lan create net >/dev/null
    pv-vm create v | pv-vm lan attach net | jq -c '.lan | [.subnet, .members[0].mac]' >"$round"
    pv-vm close v >/dev/null
    pv-vm lan close net >/dev/null
  done
  cmp 1 2
}

@test "attach passes the document on; members come and go with their VMs" {
  pv-vm lan create net >/dev/null
  run -0 --separate-stderr bash -c 'pv-vm create v | pv-vm lan attach net'
  has '.vm.lans[0].name == "net" and .lan.members[0].vm == "v"'
  has '.vm.lans[0].address == .lan.members[0].address'
  expect_error duplicate_name 4 pv-vm lan attach net v
  pv-vm create w >/dev/null
  # all or none
  expect_error no_such_vm 4 pv-vm lan attach net w nosuch
  expect_error usage 2 pv-vm lan attach net w w
  assert_equal "$(pv-vm lan info net -o lan.members | jq length)" 1
  expect_error no_such_vm 4 pv-vm lan detach net w
  expect_error no_such_vm 4 pv-vm lan link net w down
  ok pv-vm lan attach net w
  ok pv-vm lan detach net v w
  has '.lan.members == []'
  assert_equal "$(pv-vm info v -o lans)" '[]'
  ok pv-vm lan attach net w
  has '.lan.members[0].address | endswith(".2")'
  pv-vm close w >/dev/null
  assert_equal "$(pv-vm lan info net -o lan.members)" '[]'
  pv-vm lan attach net v >/dev/null
  pv-vm lan close net >/dev/null
  assert_equal "$(pv-vm info v -o lans)" '[]'
}

@test "a VM whose lan's switch was killed does not boot, and says why" {
  pv-vm lan create net >/dev/null
  pv-vm create v | pv-vm lan attach net >/dev/null
  slay "$(pv-vm lan info net -o lan.pid)"
  need_guest
  expect_error server_dead 4 pv-vm boot v
  ok pv-vm lan detach net v
  has '.lan.state == "dead" and .lan.members == []'
}

@test "bad names, links and flags are one line each" {
  for bad in '../x' 'a b' '.x' "$(printf 'x%.0s' $(seq 65))"; do
    expect_error usage 2 pv-vm lan create "$bad"
    expect_error usage 2 pv-vm lan close "$bad"
  done
  expect_error usage 2 pv-vm lan
  expect_error usage 2 pv-vm lan explode net
  expect_error usage 2 pv-vm lan create
  expect_error usage 2 pv-vm lan create net more
  expect_error usage 2 pv-vm lan create net --latency 1ms
  expect_error usage 2 pv-vm lan list net
  expect_error usage 2 pv-vm lan info net --all
  expect_error no_such_lan 4 pv-vm lan attach net v
  pv-vm lan create net >/dev/null
  expect_error no_such_vm 4 pv-vm lan attach net v
  pv-vm create v | pv-vm lan attach net >/dev/null
  expect_error usage 2 pv-vm lan link net v
  expect_error usage 2 pv-vm lan link net v sideways
  expect_error usage 2 pv-vm lan link net v up down
  for flags in '--latency -1ms' '--latency nan' '--latency 2m' '--jitter x' '--loss 101%' \
    '--loss -1%' '--loss nan' '--loss 1.5' '--loss %' '--seed x' '--seed -1'; do
    # shellcheck disable=SC2086
    expect_error usage 2 pv-vm lan link net v $flags
  done
  ok pv-vm lan link net v down --latency 1.5ms --jitter 250us --loss 2.5% --seed 18446744073709551615
  has '.lan.members[0] | [.link, .latency_ms, .jitter_ms, .loss, .seed] ==
    ["down", 1.5, 0.25, 0.025, "18446744073709551615"]'
}

@test "twenty lans made and closed, some at once, have subnets of their own and leave nothing" {
  for i in $(seq 20); do pv-vm lan create "n$i" >/dev/null & done
  wait
  assert_equal "$(pv-vm lan list -o lan.subnet | sort -u | wc -l)" 20
  for i in $(seq 20); do pv-vm lan close "n$i" >/dev/null & done
  wait
  assert_equal "$(pv-vm lan list)" ""
  assert_equal "$(ls "$PV_RUN_DIR/obj")" ""
  assert_equal "$(pv_processes)" ""
}

@test "closing a lan twice at once, and while a VM joins it, leaves nothing" {
  for _ in 1 2 3 4 5; do
    pv-vm lan create net >/dev/null
    pv-vm create v >/dev/null
    pv-vm lan attach net v >/dev/null 2>&1 &
    pv-vm lan close net >/dev/null &
    pv-vm lan close net >/dev/null &
    wait
    pv-vm lan close net >/dev/null
    assert_equal "$(pv-vm info v -o lans)" '[]'
    pv-vm close v >/dev/null
  done
}

@test "the run directory deleted under a lan: its switch ends by itself" {
  pv-vm lan create net </dev/null >/dev/null
  switch=$(pgrep -f "pv-vm lan create net" | while read -r pid; do
    if grep -qsaF "PV_RUN_DIR=$PV_RUN_DIR" "/proc/$pid/environ"; then echo "$pid"; fi
  done)
  kill -0 "$switch"
  rm -rf "$PV_RUN_DIR"
  until_true ended "$switch"
  mkdir -m 700 "$PV_RUN_DIR"
}
