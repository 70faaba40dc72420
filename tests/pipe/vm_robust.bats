#!/usr/bin/env bats
# What happens to VMs when others do what they should not: delete the run directory, kill our
# processes, race each other. Nothing may hang, leak or say more than one line.

load helper

setup() { pv_setup; }
teardown() { pv_teardown; }

a_supervisor() { compgen -G "$PV_RUN_DIR/obj/*/sup.sock" >/dev/null; }

@test "the run directory deleted under us: everything ends by itself, commands say one line" {
  need_guest
  guest_vm v
  plug vda --scratch 1M
  pv-disk serve d --memory 1M >/dev/null
  pids="$(pv-vm info v -o pid) $(pv-vm info v -o supervisor_pid)
    $(pv-disk info vda -o pid) $(pv-disk info d -o pid)"
  rm -rf "$PV_RUN_DIR"
  for command in 'pv-vm info v' 'pv-vm boot v' 'pv-vm console v' 'pv-disk info d' \
    'pv-disk read d' 'pv-fault list --disk d'; do
    run -4 --separate-stderr $command
    assert_equal "$(wc -l <<<"$stderr")" 1
  done
  run -255 --separate-stderr pv-vm run v -- true
  assert_equal "$(wc -l <<<"$stderr")" 1
  run -0 pv-vm close v
  for pid in $pids; do until_true ended "$pid"; done
}

@test "the run directory deleted during a boot: boot fails, nothing stays" {
  need_guest
  pv-vm create v >/dev/null
  pv-vm boot v >doc 2>err &
  booting=$!
  until_true a_supervisor
  until_true rm -rf "$PV_RUN_DIR" # QEMU may make a socket in it meanwhile
  status=0
  wait "$booting" || status=$?
  assert_equal "$status" 4
  assert_equal "$(wc -l <err)" 1
  until_true bash -c '! pgrep -f "qemu-system.*$PV_RUN_DIR" >/dev/null'
}

@test "create against create: one wins, the others say duplicate_name" {
  for i in 1 2 3 4 5 6 7 8; do pv-vm create v >"out$i" 2>/dev/null & done
  wait
  assert_equal "$(cat out* | jq -r '.error.code // .vm.state' | sort | uniq -c | tr -s ' ')" \
    $' 1 created\n 7 duplicate_name'
}

@test "close against close: all succeed, one of them has closed it" {
  for _ in 1 2 3 4 5; do
    pv-vm create v | pv-disk attach --id vda --memory 1M >/dev/null
    for i in 1 2 3 4; do { pv-vm close v >"out$i" 2>&1 || echo failed >>"out$i"; } & done
    wait
    assert_equal "$(cat out? | grep -c failed)" 0
    [ "$(cat out? | jq -s 'map(select(.vm.closed)) | length')" -ge 1 ]
    assert_equal "$(ls "$PV_RUN_DIR/obj")" ''
  done
}

@test "boot against close: the close waits its turn, and then nothing is left" {
  need_guest
  pv-vm create v >/dev/null
  pv-vm boot v >booted 2>/dev/null &
  until_true a_supervisor
  run -0 pv-vm close v --timeout 60s -o closed
  assert_output true
  wait
  [[ "$(jq -r '.vm.state // .error.code' booted)" =~ ^(booted|shutdown|dead|no_such_vm|guest_died)$ ]]
  run -1 pgrep -af "qemu-system.*$PV_RUN_DIR"
}

@test "a thousand quick rounds of create and close leave nothing" {
  rounds() { for i in $(seq "$2"); do pv-vm create "$1$i" | pv-vm close >/dev/null || return; done; }
  rounds a 500 & a=$!
  rounds b 500
  wait "$a"
  assert_equal "$(find "$PV_RUN_DIR/obj" "$PV_RUN_DIR/idx" -mindepth 1)" ''
  assert_equal "$(find "$PV_RUN_DIR" -type f)" ''
  assert_equal "$(pv_processes | grep -v -x -e $$ -e "$BASHPID" | xargs -r ps -o comm= -p | grep pv-)" ''
}

@test "the supervisor needs less than 4 MiB, and no more after hundreds of requests" {
  need_guest
  guest_vm v
  supervisor=$(pv-vm info v -o supervisor_pid)
  # What has been done is forgotten when nothing is asked for a moment.
  small() {
    for _ in {1..60}; do
      [ "$(awk '/^VmRSS/ { print $2 }' "/proc/$supervisor/status")" -ge 4096 ] || return 0
      sleep 0.1
    done
    return 1
  }
  small
  files=$(ls "/proc/$supervisor/fd" | wc -l)
  for _ in $(seq 300); do pv-vm info v >/dev/null; done
  pv-vm run v -- head -c 1000000 /dev/zero >/dev/null
  small
  assert_equal "$(ls "/proc/$supervisor/fd" | wc -l)" "$files"
}

@test "a name exists once on the way out, whatever is asked for" {
  pv-vm create v --scope ci >/dev/null
  for scope in ci ci/job7 ci/job7/deep; do
    run -4 --separate-stderr pv-vm create v --scope $scope
    assert_equal "$(code_of)" duplicate_name
    assert_equal "$(wc -l <<<"$stderr")" 1
  done
  # An inner name may come first; then the outer one is refused to nobody but finds its own.
  pv-vm create w --scope ci/job7 >/dev/null
  pv-vm create w --scope ci >/dev/null
  run -0 pv-vm info w --scope ci/job7 -o scope
  assert_output ci/job7
  run -0 pv-vm info w --scope ci/other -o scope
  assert_output ci
  pv-vm scope close ci >/dev/null
}
