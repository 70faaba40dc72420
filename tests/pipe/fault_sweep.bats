#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a sweep leaves out a request, calls an outcome by the wrong name, or leaves something
# behind.

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

# sweep FLAGS… -- COMMAND…: its lines in $output, whatever the verdict; no word on stderr.
sweep() {
  run --separate-stderr pv-fault sweep "$@" </dev/null
  assert_equal "$stderr" ''
}

outcomes() { jq -r '.sweep | select(.) | .outcome' <<<"$output" | tr '\n' ' '; }

# Four requests whose failure it reports. A fifth, the flush before it closes, it does not.
client=(qemu-io -f raw -t writeback -c 'write -P 97 0 4k' -c 'read -P 97 0 4k' -c 'write -P 98 4k 4k'
  -c flush '{uri}')

# In a script: asks for one sector at OFFSET, and fails when that does. One request.
one_read="one_read() { qemu-io -r -f raw -c \"read \$1 512\" \"\$PV_URI\" >/dev/null; }"

# script NAME: an executable of what is on stdin, with one_read in it.
script() {
  { printf '#!/bin/bash\n%s\n' "$one_read"; cat; } >"$1"
  chmod +x "$1"
}

@test "each request fails once, in order, and the first run without a fault is the last" {
  sweep --memory 1M -- "${client[@]}"
  assert_equal "$status" 0
  assert_equal "$(outcomes)" \
    'error_reported error_reported error_reported error_reported recovered not_reached '
  assert_equal "$(jq -c '.sweep.fault | select(.) | [.op, .offset_bytes, .length_bytes, .delivered]' <<<"$output")" \
    $'["write",0,4096,"EIO"]\n["read",0,4096,"EIO"]\n["write",4096,4096,"EIO"]\n["flush",0,0,"EIO"]\n["flush",0,0,"EIO"]'
  assert_equal "$(jq -c '.sweep | select(.) | [.k, .fired, .matched >= 4]' <<<"$output" | tr -d '\n')" \
    '[1,1,true][2,1,true][3,1,true][4,1,true][5,1,true][6,0,true]'
  has '.summary == {runs: 6, stopped: "fewer_than_k", outcomes: {recovered: 1, error_reported: 4,
    corrupted: 0, hung: 0, crashed: 0, not_reached: 1}}'
  [[ $(jq -s '.[0].sweep.command' <<<"$output") == *'"exit_status": 1'*'Input/output error'* ]]
}

@test "--op, --errno, --mode and --rule say what fails, --from and --max which" {
  sweep --memory 1M --op write --errno ENOSPC -- "${client[@]}"
  assert_equal "$(outcomes)" 'error_reported error_reported not_reached '
  [[ $(jq -s '.[1].sweep.command.stdout' <<<"$output") == *'No space left on device'* ]]
  sweep --memory 1M --mode eio_read -- "${client[@]}"
  assert_equal "$(outcomes)" 'error_reported not_reached '
  sweep --memory 1M --rule '{"match":{"op":["write"],"ranges":[[4096,512]]},"do":{"kind":"error"}}' \
    -- "${client[@]}"
  assert_equal "$(outcomes)" 'error_reported not_reached '
  sweep --memory 1M --mode slow -- "${client[@]}"
  assert_equal "$(outcomes)" 'recovered recovered recovered not_reached '
  sweep --memory 1M --from 3 --max 2 -- "${client[@]}"
  assert_equal "$(jq -c '.sweep.k | select(.)' <<<"$output" | tr '\n' ' ')" '3 4 '
  has '.summary.runs == 2 and .summary.stopped == "max"'
}

@test "the check decides whether a disk is corrupted, and sees how the command ended" {
  # shellcheck disable=SC2016 # the check's variables
  sweep --memory 1M --check 'echo "k=$PV_SWEEP_K status=$PV_SWEEP_STATUS"
    qemu-io -r -f raw -c "read -P 98 4k 4k" "$PV_URI" >&2' -- "${client[@]}"
  assert_equal "$status" 1
  assert_equal "$(outcomes)" 'error_reported error_reported corrupted error_reported recovered not_reached '
  assert_equal "$(jq -j '.sweep.check.stdout | select(.)' <<<"$output" | tr '\n' ' ')" \
    'k=1 status=1 k=2 status=1 k=3 status=1 k=4 status=1 k=5 status=0 k=6 status=0 '
  [ "$(jq -s '.[2].sweep | .check.exit_status == 1 and .command.exit_status == 1' <<<"$output")" = true ]
  [[ $(jq -s '.[2].sweep.check.stderr' <<<"$output") == *'Pattern verification failed'* ]]
}

@test "a command that does not care for errors corrupts, one that tries again has recovered" {
  script work <<'END'
for _ in 1 2; do
  qemu-io -f raw -t writeback -c 'write -P 97 0 512' "$PV_URI" >/dev/null && exit
  [ "$1" = careless ] && exit 0
done
END
  # shellcheck disable=SC2016
  local check='qemu-io -r -f raw -c "read -P 97 0 512" "$PV_URI"'
  sweep --memory 1M --op write --check "$check" -- ./work careless
  assert_equal "$status" 1
  assert_equal "$(outcomes)" 'corrupted not_reached '
  sweep --memory 1M --op write --check "$check" -- ./work
  assert_equal "$status" 0
  assert_equal "$(outcomes)" 'recovered not_reached '
}

@test "the command has its words replaced, its variables set and no stdin" {
  script work <<'END'
[ "$1" = "a $PV_URI $PV_DISK b" ] && [ "$2" = "$PV_SWEEP_K,$PV_SOCKET,$PV_SWEEP_K" ] && [ "$3" = '{x}' ] || exit 9
[ -S "$PV_SOCKET" ] && [ -d "$PV_SWEEP_DIR" ] && [ -z "$(cat)" ] || exit 8
[ "$(pv-disk info "$PV_DISK" -o uri </dev/null)" = "$PV_URI" ] || exit 7
pv-disk read "$PV_DISK" --raw </dev/null >"$PV_SWEEP_DIR/read" 2>&1 || true
END
  # shellcheck disable=SC2016
  sweep --memory 1M --check 'test -e "$PV_SWEEP_DIR/read"' -- ./work 'a {uri} {disk} b' '{k},{socket},{k}' '{x}'
  assert_equal "$(outcomes)" 'recovered not_reached '
}

@test "lines come in the order of k although later runs end first, and none is told beyond the last" {
  script work <<'END'
touch "begun.$PV_SWEEP_K"
if [ "$PV_SWEEP_K" = 1 ]; then
  # the first is the last of four to end
  while ! { [ -e ended.2 ] && [ -e ended.3 ] && [ -e ended.4 ]; }; do sleep 0.02; done
fi
for at in 1 2 3 4 5 6; do one_read "${at}k"; done
touch "ended.$PV_SWEEP_K"
END
  sweep --memory 1M --jobs 4 --op read -- ./work
  assert_equal "$status" 0
  assert_equal "$(jq -c '.sweep.k | select(.)' <<<"$output" | tr '\n' ' ')" '1 2 3 4 5 6 7 '
  has '.summary.runs == 7 and .summary.outcomes.recovered == 6'
}

@test "a command that hangs is ended with all its children, at its own time limit" {
  script work <<'END'
trap '' TERM
sleep 1000 &
echo $! >"pid.$PV_SWEEP_K"
one_read 0 || wait
kill -KILL $!
END
  sweep --memory 1M --run-timeout 5s --op read -- ./work
  assert_equal "$status" 1
  assert_equal "$(outcomes)" 'hung not_reached '
  [ "$(jq -s '.[0].sweep.command.timed_out' <<<"$output")" = true ]
  run ! kill -0 "$(cat pid.1)"
  # A check, too.
  sweep --memory 1M --run-timeout 1s --max 1 --check 'sleep 1000' -- "${client[@]}"
  assert_equal "$(outcomes)" 'hung '
}

@test "a request that is never answered in time makes the command hang, and the disk is closed" {
  sweep --memory 1M --rule '{"do":{"kind":"delay","delay_ms":100000},"match":{"op":["flush"]}}' \
    --run-timeout 5s --max 1 -- "${client[@]}"
  assert_equal "$(outcomes)" 'hung '
  [ "$(jq -s '.[0].sweep.fault.op' <<<"$output")" = '"flush"' ]
}

@test "a command that is killed by a signal has crashed" {
  script work <<<'one_read 0 || kill -SEGV $$'
  sweep --memory 1M --op read -- ./work
  assert_equal "$status" 1
  assert_equal "$(outcomes)" 'crashed not_reached '
  [ "$(jq -s '.[0].sweep.command.signal' <<<"$output")" = '"SIGSEGV"' ]
}

@test "a command without any request is not reached at once; one that fails by itself is no success" {
  sweep --memory 1M -- true
  assert_equal "$status" 0
  assert_equal "$(outcomes)" 'not_reached '
  has '.summary.runs == 1 and .summary.stopped == "fewer_than_k"'
  sweep --memory 1M -- false
  assert_equal "$status" 1
  assert_equal "$(outcomes)" 'not_reached '
  has '.summary.stopped == "fails_without_fault"'
}

@test "processes and disks that a command leaves behind are ended, in its group or out of it" {
  script work <<'END'
sleep 1000 &
echo $! >pid
setsid bash -c 'echo $$ >pid.out; exec sleep 1000' &
pv-disk serve mine --memory 1M </dev/null
until [ -s pid.out ]; do sleep 0.02; done
END
  sweep --memory 1M -- ./work
  assert_equal "$status" 0
  assert_equal "$(outcomes)" 'not_reached '
  run ! kill -0 "$(cat pid)"
  run ! kill -0 "$(cat pid.out)"
  assert_equal "$(pv-disk list --all </dev/null)" ''
}

@test "the end of long output is kept, and what is no text as base64" {
  # shellcheck disable=SC2016
  sweep --memory 1M -- bash -c 'seq 200000; printf "\377" >&2'
  [ "$(jq -s '.[0].sweep.command | (.stdout | length == 4096 and endswith("\n200000\n"))
    and .stderr_b64 == "/w=="' <<<"$output")" = true ]
}

@test "an image is never written to, and --keep keeps the overlay of what was corrupted" {
  random_file t.img 1048576
  cp t.img copy.img
  sweep --image t.img --format raw --keep --op write --check '[ "$PV_SWEEP_K" != 2 ]' \
    -- "${client[@]}"
  assert_equal "$status" 1
  assert_equal "$(outcomes)" 'error_reported corrupted not_reached '
  cmp t.img copy.img
  local kept
  kept=$(jq -r '.sweep.kept | select(.)' <<<"$output")
  assert_equal "$(find "$PV_T" -path '*pv-sweep*' -type f)" "$kept"
  serve d --image t.img --format raw --layer "cow:file=$kept"
  pv-disk read d --count 16 --raw </dev/null >after
  pv-disk close d </dev/null
  { head -c 4096 /dev/zero | tr '\0' a; head -c 8192 copy.img | tail -c 4096; } | cmp - after
  rm -r "${kept%/*}"
  sweep --memory 1M --keep --max 2 --check false -- "${client[@]}"
  assert_equal "$(jq -r '.sweep.kept | select(.)' <<<"$output" | xargs ls | wc -l)" 2
  rm -r "$PV_T"/pv-sweep.*
}

@test "layers and formats are those of pv-disk" {
  pv-disk create t.qcow2 --size 1M </dev/null >/dev/null
  sweep --image t.qcow2 --layer stats --layer delay:ms=1 --max 2 -- "${client[@]}"
  assert_equal "$(outcomes)" 'error_reported error_reported '
}

# interrupt HOW: a sweep in the middle of a run is ended in that way; its status is in $status.
interrupt() {
  printf '#!/bin/bash\ntouch begun.$PV_SWEEP_K\nsleep 1000\n' >work
  chmod +x work
  mkfifo lines
  # Without job control a shell starts what is in the background with SIGINT ignored, and who runs
  # these tests may ignore SIGHUP.
  env --default-signal=INT,HUP,TERM pv-fault sweep --memory 1M --jobs 2 -- ./work >lines </dev/null 2>err &
  local pid=$!
  exec 9<lines
  until_true test -e begun.1
  until_true test -e begun.2
  "$@" "$pid"
  status=0
  wait "$pid" || status=$?
  exec 9<&-
  assert_equal "$(pv_processes)" ''
  assert_equal "$(ls "$PV_RUN_DIR/obj")" ''
}

close_reader() { exec 9<&-; }

@test "SIGINT, SIGTERM and SIGHUP end a sweep by that signal, a reader that goes away as a failed write" {
  interrupt kill -TERM
  assert_equal "$status" 143
  rm begun.* lines
  interrupt kill -INT
  assert_equal "$status" 130
  rm begun.* lines
  interrupt kill -HUP
  assert_equal "$status" 129
  rm begun.* lines
  interrupt close_reader
  assert_equal "$status" 5
  assert_equal "$(cat err)" 'pv-fault: cannot write to stdout: Broken pipe'
}

@test "on a terminal a sweep is a table" {
  sweep --text --memory 1M --op flush -- "${client[@]}"
  assert_line --index 0 --regexp '^k +outcome +op +offset_bytes'
  assert_line --index 1 --regexp '^1 +error_reported +flush .* exit 1 '
  assert_line --index 3 --regexp '^3 +not_reached +- .* ok '
  assert_line 'summary'
  sweep -o outcome --memory 1M --op flush -- "${client[@]}"
  assert_output $'error_reported\nrecovered\nnot_reached'
}

@test "bad input is one clear line and the right class" {
  expect_error usage 2 pv-fault sweep --memory 1M
  expect_error usage 2 pv-fault sweep --memory 1M --
  expect_error usage 2 pv-fault sweep -- true
  truncate -s 1M t.img
  expect_error usage 2 pv-fault sweep --image t.img --memory 1M -- true
  expect_error usage 2 pv-fault sweep --memory 1M --format raw -- true
  expect_error no_image 4 pv-fault sweep --image nosuch.img -- true
  expect_error usage 2 pv-fault sweep --memory 1M --from 0 -- true
  expect_error usage 2 pv-fault sweep --memory 1M --max 0 -- true
  expect_error usage 2 pv-fault sweep --memory 1M --jobs 0 -- true
  expect_error usage 2 pv-fault sweep --memory 1M --jobs 257 -- true
  expect_error usage 2 pv-fault sweep --memory 1M --run-timeout 0 -- true
  expect_error usage 2 pv-fault sweep --memory 1M --layer cow -- true
  expect_error usage 2 pv-fault sweep --memory 1M --layer nosuch -- true
  expect_error bad_mode 2 pv-fault sweep --memory 1M --mode nosuch -- true
  expect_error usage 2 pv-fault sweep --memory 1M --mode slow --rule '{}' -- true
  local rule
  for rule in '{' '[]' '7' '{"when":7}' '{"when":{"after":0},"do":{"kind":"error"}}' \
    '{"when":{"times":3},"do":{"kind":"error"}}' '{"when":{"every":2},"do":{"kind":"error"}}' \
    '{"match":7,"do":{"kind":"error"}}' '{"do":{"kind":"error","errno":"ENOSUCH"}}' '{"do":7}'; do
    expect_error bad_rule 2 pv-fault sweep --memory 1M --rule "$rule" -- true
    expect_error bad_rule 2 pv-fault sweep --memory 1M --rule "$rule" --op read,nosuch -- true
  done
  expect_error unavailable 7 pv-fault sweep --memory 1M -- ./no-such-program
  # A command that closes its disk has taken away what was to be looked at.
  # shellcheck disable=SC2016
  expect_error no_such_disk 4 pv-fault sweep --memory 1M -- sh -c 'pv-disk close "$PV_DISK"'
}

# lie KIND: the rule for it; mark is the one that does no harm.
lie() {
  case $1 in mark) set -- 'mark","name":"m' ;; esac
  printf '{"do":{"kind":"%s"}}' "$1"
}

@test "a disk that lies once is found by a check that cuts its power, an honest one never" {
  # Two records, each flushed, or written with FUA. The second flush makes good what the first has
  # not done.
  script work <<'END'
flush='{"op":"flush"}'
[ "$1" = drop_fua ] && fua=,\"fua\":true flush=
printf '{"op":"write","length_bytes":4096,%s}\n%s\n' "\"offset_bytes\":0,\"pattern\":\"0x61\"$fua" "$flush" \
  "\"offset_bytes\":4096,\"pattern\":\"0x62\"$fua" "$flush" | sed '/^$/d' | pv-disk io "$PV_DISK"
END
  # shellcheck disable=SC2016
  local kind expected check='pv-fault power-cut --disk "$PV_DISK" </dev/null >&2 &&
    qemu-io -r -f raw -c "read -P 97 0 4k" -c "read -P 98 4k 4k" "$PV_URI" >&2'
  for kind in drop_write torn_write drop_flush drop_fua mark; do
    case $kind in
      drop_flush) expected='recovered corrupted not_reached ' ;;
      mark) expected='recovered recovered recovered recovered not_reached ' ;;
      *) expected='corrupted corrupted not_reached ' ;;
    esac
    sweep --memory 1M --layer cache --rule "$(lie "$kind")" --check "$check" -- ./work "$kind"
    assert_equal "$kind: $(outcomes)" "$kind: $expected"
    # Nobody was told.
    assert_equal "$(jq -r '.sweep | select(.) | .command.exit_status' <<<"$output" | sort -u)" 0
    assert_equal "$(jq -r '.sweep.fault | select(.) | .delivered' <<<"$output" | sort -u)" OK
  done
}
