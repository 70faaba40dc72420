#!/usr/bin/env bats
# Scopes as a whole: whatever ends the command or us, everything that was started in one is gone.

load helper

setup() { pv_setup; }
teardown() { pv_teardown; }

nothing_left() { [ -z "$(ls "$PV_RUN_DIR/obj")" ]; }
has_line() { grep -qs "$1" "$2"; }

# A scope with a VM, a disk and a process that would stay for minutes; says "up" when it is.
long_job() {
  pv-vm scope run job -- bash -c 'pv-vm create v >/dev/null
    pv-disk serve d --memory 1M >/dev/null; sleep 300 & echo "up $!"; wait'
}

@test "scope run: the command's scope is fresh, its status is ours, and nothing stays" {
  need_guest
  run -3 --separate-stderr pv-vm scope run job -- bash -c 'echo "$PV_SCOPE"
    pv-vm create v --no-agent | pv-disk attach --id vda --scratch 1M | pv-vm boot -o state
    pv-disk serve alone --memory 1M -o state
    pv-vm info v -o pid >qemu
    exit 3'
  assert_output $'job\nbooted\nserving'
  ended "$(cat qemu)"
  nothing_left
}

@test "scope run: stdin, signals and failures of the command come through as from a shell" {
  run -0 bash -c 'echo in | pv-vm scope run job -- cat'
  assert_output in
  run -137 pv-vm scope run job -- bash -c 'kill -9 $$'
  run -127 --separate-stderr pv-vm scope run job -- no-such-command
  assert_equal "$(wc -l <<<"$stderr")" 1
  run -126 --separate-stderr pv-vm scope run job -- /etc/passwd
  assert_equal "$(wc -l <<<"$stderr")" 1
  run -0 pv-vm scope run -- bash -c 'echo "$PV_SCOPE"'
  [[ "$output" == run-* ]]
  nothing_left
}

@test "scope run: a signal to us ends the command, then everything" {
  for signal in TERM INT HUP; do
    long_job >out &
    runner=$!
    until_true has_line up out
    kill -$signal "$(pv-vm scope list -o runner_pid)"
    status=0
    wait "$runner" || status=$?
    assert_equal "$status" "$((128 + $(kill -l $signal)))"
    nothing_left
    ended "$(sed -n 's/up //p' out)"
    rm out
  done
}

@test "scope run killed with SIGKILL: the guardian ends everything" {
  long_job >out &
  until_true has_line up out
  kill -KILL "$(pv-vm scope list -o runner_pid)"
  until_true nothing_left
  until_true ended "$(sed -n 's/up //p' out)"
}

@test "scope run and its guardian killed: an orphan, that is listed and closed" {
  long_job >out &
  until_true has_line up out
  runner=$(pv-vm scope list -o runner_pid)
  pkill -KILL -P "$runner" -x pv-vm-guard
  kill -KILL "$runner"
  until_true ended "$runner"
  run -0 pv-vm scope list
  has '.scope.runner_pid == null and (.scope.orphans | join(" ") | contains("its command has gone"))'
  run -0 pv-vm scope close job
  has '.scope.closed | .vms == 1 and .disks == 1 and .orphans >= 1'
  nothing_left
  kill "$(sed -n 's/up //p' out)"
}

@test "Ctrl-C on a terminal is the command's, and it has its own way to end" {
  cat >type.py <<'EOF'
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execvp("pv-vm", ["pv-vm", "scope", "run", "job", "--", "bash", "-c",
                        "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done"])
shown = b""
while True:
    try:
        shown += os.read(terminal, 4096)
    except OSError:
        break
    if b"ready" in shown:
        os.write(terminal, b"\x03")
        shown = shown.replace(b"ready", b"")
print(shown.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
EOF
  run -5 python3 type.py
  assert_output --partial caught
  nothing_left
}

@test "scope run in a scope: names are below it, the outer one ends the inner one too" {
  PV_SCOPE=ci run -0 pv-vm scope run job7 -- bash -c 'echo "$PV_SCOPE"'
  assert_output ci/job7
  run -0 pv-vm scope run a -- bash -c 'pv-vm scope run b -- sh -c "pv-vm create v -o scope; exec sleep 300" >out &
    until grep -qs a/b out; do sleep 0.02; done; pv-vm scope list -o name'
  assert_output $'a\na/b'
  nothing_left
}

@test "scope run: a scope in use is refused, also to the second of two at once" {
  pv-vm create v --scope ci/job7 >/dev/null
  run -4 --separate-stderr pv-vm scope run ci -- true
  assert_equal "$(wc -l <<<"$stderr")" 1
  pv-vm scope close ci >/dev/null
  for _ in 1 2 3 4; do
    { status=0
      # Who has it waits until the others were refused.
      pv-vm scope run one -- bash -c 'echo ran >>ran
        for _ in {1..400}; do
          [ "$(cat codes 2>/dev/null | wc -l)" != 3 ] || break; sleep 0.05
        done' 2>/dev/null || status=$?
      echo "$status" >>codes; } &
  done
  wait
  assert_equal "$(sort codes | tr '\n' ' ')" "0 4 4 4 "
  assert_equal "$(wc -l <ran)" 1
}

@test "scope run: who runs a scope that is in use is named" {
  PV_SCOPE=ci pv-vm scope run job -- bash -c 'pv-vm create v -o state; exec sleep 300' >out &
  until_true has_line created out
  runner=$(pv-vm scope list | jq -r 'select(.scope.name == "ci/job") | .scope.runner_pid')
  PV_SCOPE=ci run -4 --separate-stderr pv-vm scope run job -- true
  assert_equal "$stderr" "pv-vm: scope 'ci/job' is in use: it is run by process $runner"
  run -4 --separate-stderr pv-vm scope run ci -- true
  assert_equal "$stderr" \
    "pv-vm: scope 'ci' is in use: scope 'ci/job' in it is run by process $runner"
  kill "$runner"
  wait || true
  nothing_left
}

@test "scope close takes all below, says what it closed, and does it again without an error" {
  for scope in ci ci/job7 ci/job7/deep city; do
    pv-vm create v-${scope//\//-} --scope $scope >/dev/null
  done
  pv-disk serve d --memory 1M --scope ci/job7 >/dev/null
  run -0 pv-vm scope close ci
  assert_equal "$(command jq -c .scope <<<"$output")" \
    '{"name":"ci","closed":{"streams":0,"vms":3,"disks":1,"lans":0,"snaps":0,"orphans":0}}'
  run -0 pv-vm scope close ci
  has '.scope.closed.vms == 0'
  run -0 pv-vm scope list -o name
  assert_output city
  PV_SCOPE=city run -0 pv-vm scope close
  has '.scope.name == "city" and .scope.closed.vms == 1'
}

@test "scope close ends commands that are at work in the scope" {
  pv-disk serve d --memory 1M --scope job >/dev/null
  PV_SCOPE=job pv-fault add stall --disk d >/dev/null
  PV_SCOPE=job pv-disk read d >/dev/null 2>&1 &
  until_true bash -c "pv-fault held --scope job --disk d | grep -q held"
  run -0 pv-vm scope close job
  has '.scope.closed | .streams == 1 and .disks == 1'
}

@test "orphans are listed, and closed by scope close and by close --all" {
  for way in 'scope close' 'close --all'; do
    pv-disk serve d --memory 1M >/dev/null
    kill -KILL "$(pv-disk info d -o pid)"
    pv-vm create v | pv-disk attach --id vda --memory 1M >/dev/null
    vm=$(readlink "$PV_RUN_DIR/idx/default/@vm/@/v")
    rm -r "$PV_RUN_DIR/idx/default/@vm/@/v"
    touch -d '1 minute ago' "$PV_RUN_DIR/obj/$vm"
    server=$(pv-disk info v/vda -o pid)
    ln -s 0badcafe "$PV_RUN_DIR/idx/default/@disk/@/gone"
    until_true bash -c 'pv-vm scope list | grep -q "its server has gone"'
    run -0 pv-vm scope list
    assert_output --partial 'disk v/vda: its VM has gone'
    assert_output --partial 'an object without a name'
    assert_output --partial 'a name without an object'
    run -0 pv-vm $way
    nothing_left
    ended "$server"
    run -0 pv-vm scope list
    assert_output ''
  done
}

@test "scope: what makes no sense is one line each" {
  for bad in 'scope' 'scope frob' 'scope run job' 'scope run job true' 'scope run ../x -- true' \
    'scope close a//b' 'scope close x -- true' 'scope list -- true'; do
    run -2 --separate-stderr pv-vm $bad
    assert_equal "$(wc -l <<<"$stderr")" 1
  done
}
