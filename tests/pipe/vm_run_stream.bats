#!/usr/bin/env bats
# run: what it carries, streams as they come, input of any size, and what ends a command. One VM for
# the file: commands do not change it.

load helper
load helper_shared

# guest SCRIPT: by the path that captures output, to look at what streams have left.
guest() { pv-vm run v -o run.stdout -- sh -c "$1"; }

no_process() { [ "$(guest "ps | grep -c '[${1:0:1}]${1:1}'; true")" = 0 ]; }
a_process() { ! no_process "$1"; }

@test "run carries status, both outputs, bytes that are not text, and stdin" {
  run -3 --separate-stderr pv-vm run v -- sh -c 'echo out; echo err >&2; exit 3'
  assert_equal "$(jq -c '.run | [.exit_status, .stdout, .stderr]' <<<"$output")" '[3,"out\n","err\n"]'
  run -0 pv-vm run v -- printf '\377\001'
  assert_equal "$(jq -r .run.stdout_b64 <<<"$output" | base64 -d | od -An -tx1)" " ff 01"
  head -c 100000 /dev/urandom >bytes
  pv-vm run v --raw --stdin -- cat <bytes >back
  cmp bytes back
  run -127 pv-vm run v --raw -- no-such-command
  run -137 pv-vm run v --raw -- sh -c 'kill -9 $$'
  run -0 pv-vm run v --raw --env A=b -- sh -c 'echo $A'
  assert_output b
}

@test "several commands run in one guest at once" {
  for i in 1 2 3 4; do pv-vm run v --raw -- sh -c "sleep 1; echo $i" >"out$i" & done
  wait
  run -0 sort out1 out2 out3 out4
  assert_output $'1\n2\n3\n4'
}

@test "run that takes too long is a timeout, and the command is killed in the guest" {
  run -255 --separate-stderr pv-vm run v --timeout 3s -- sleep 1000
  assert_equal "$(code_of)" timeout
  until_true no_process 'sleep 1000'
}

@test "raw: both outputs apart, any byte, the exit status, signals as a shell has them" {
  run -3 --separate-stderr pv-vm run v --raw -- sh -c 'echo out; echo err >&2; exit 3'
  assert_equal "$output/$stderr" out/err
  pv-vm run v --raw -- printf '\000\377\n\001' | od -An -tx1 >bytes
  assert_equal "$(cat bytes)" ' 00 ff 0a 01'
  run -137 pv-vm run v --raw -- sh -c 'kill -9 $$'
  run -127 --separate-stderr pv-vm run v --raw -- no-such-command
  [[ $stderr == *no-such-command*not\ found* ]]
  # A name that is a word of the shell is a command all the same.
  run -127 --separate-stderr pv-vm run v --raw -- exit 3
}

@test "a command that cannot be started: the same words and status, whichever way it is run" {
  guest 'mkdir -p /tmp/start/folder && echo x >/tmp/start/plain && cp /tmp/start/plain /bin/plain'
  for how in '--raw' '--raw --cwd /tmp' '-o run.stderr' '-o run.stderr --cwd /tmp/start'; do
    while IFS=: read -r command status words; do
      run "-$status" pv-vm run v $how -- $command
      assert_output "pv-vm run: $command: $words"
    done <<'ROWS'
nosuch:127:not found in the guest
exit:127:not found in the guest
/no/such:127:not found in the guest
/tmp/start/plain:126:permission denied in the guest
ROWS
  done
  run -126 pv-vm run v --raw -- /tmp/start/folder
  assert_output 'pv-vm run: /tmp/start/folder: is a directory'
  guest 'cp /bin/plain /tmp/written && chmod 755 /tmp/written
    sleep 1000 3>>/tmp/written >/dev/null 2>&1 &'
  run -126 pv-vm run v -o run.stderr -- /tmp/written
  assert_output 'pv-vm run: /tmp/written: open for writing in the guest'
  run -127 pv-vm run v --raw --env 'PATH=/no:/tmp/*' -- plain
  assert_output 'pv-vm run: plain: not found in the guest'
  run -0 pv-vm run v --raw --cwd /bin -- ./true
  run -0 pv-vm run v --cwd / --env x=1 --env p=2 -o run.stdout -- sh -c 'echo $x $p "$IFS" | od -c'
  assert_output "$(x=1 p=2 sh -c 'echo $x $p "$IFS" | od -c')"
}

@test "raw: large input comes back whole, and its end is passed on" {
  head -c 20000000 /dev/urandom >in
  pv-vm run v --raw --stdin -- cat <in >out
  cmp in out
  run -0 pv-vm run v --raw --stdin -- wc -c </dev/null
  assert_output 0
  (printf a; printf b) | pv-vm run v --raw --stdin -- wc -c >n
  assert_equal "$(cat n)" 2
}

@test "raw: a command that does not read its input ends all the same" {
  run -0 timeout 20 pv-vm run v --raw --stdin -- true </dev/zero
}

@test "output comes while the command runs" {
  mkfifo pipe
  pv-vm run v --raw --stdin -- sh -c 'echo ready; read -r x; echo "got $x"' <pipe >out &
  exec 7>pipe
  until_true grep -q ready out
  echo word >&7
  exec 7>&-
  wait $!
  assert_equal "$(cat out)" $'ready\ngot word'
}

@test "stream: a document for each piece, then the result" {
  run -3 pv-vm run v --stream -- sh -c 'echo a; echo b >&2; printf "\377"; exit 3'
  assert_equal "$(jq -r 'select(.output.stream == "stderr") | .output.text' <<<"$output")" b
  assert_equal "$(jq -r 'select(.output.stream == "stdout") | .output | .b64 // (.text | @base64)' \
    <<<"$output" | while read -r x; do base64 -d <<<"$x"; done | od -An -tx1)" ' 61 0a ff'
  has '.run.exit_status == 3 and (.run | has("stdout") | not)'
}

@test "stream: a signal is told from an exit status" {
  run -137 pv-vm run v --stream -- sh -c 'kill -9 $$'
  has '.run == {argv: .run.argv, exit_status: 137, signal: 9, duration_ms: .run.duration_ms}'
  run -137 pv-vm run v --stream -- sh -c 'exit 137'
  has '.run.signal == null'
}

@test "nobody reads the output any more: the command is killed" {
  pv-vm run v --raw -- yes | head -1 >first
  assert_equal "$(cat first)" y
  until_true no_process yes
  # Also one that has nothing to say.
  pv-vm run v --raw -- sh -c 'echo x; sleep 4321' | head -1 >first
  until_true no_process 'sleep 4321'
}

@test "our end by a signal: the command and its children are killed" {
  for signal in INT TERM KILL; do
    pv-vm run v --raw -- sh -c 'sleep 4322 & sleep 4322; :' >out 3>&- &
    until_true a_process 'sleep 4322'
    # A job in the background has SIGINT ignored by the shell.
    kill -s "${signal/INT/TERM}" $!
    wait $! || true
    until_true no_process 'sleep 4322'
  done
}

@test "a timeout kills the command, exits 255 and keeps what was printed" {
  run -255 --separate-stderr pv-vm run v --raw --timeout 4s -- sh -c 'echo early; sleep 4323'
  assert_output early
  [[ $stderr == *'not ended in time'* ]]
  until_true no_process 'sleep 4323'
  run -255 --separate-stderr pv-vm run v --stream --timeout 3s -- sleep 4323
  assert_equal "$(code_of)" timeout
}

@test "--env, --cwd and --user, with streams and without" {
  for how in --raw '-o run.stdout'; do
    run -0 pv-vm run v $how --env A='b c' --cwd /proc/self --user nobody -- \
      sh -c 'echo "$A $(id -un) $HOME"; pwd'
    assert_line --index 0 'b c nobody /'
    assert_line --index 1 /proc/self
    # The command's own flags are not taken for those of what changes the user.
    run -0 pv-vm run v $how --user nobody -- printf -- '-s -c %s' x
    assert_output -- '-s -c x'
  done
  expect_error invalid 255 pv-vm run v --stream --cwd /none -- pwd
  expect_error invalid 255 pv-vm run v --cwd /none -- pwd
  expect_error invalid 255 pv-vm run v --user nosuch -- id
  expect_error invalid 255 pv-vm run v --stream --user nosuch -- id
  expect_error usage 255 pv-vm run v --cwd here -- pwd
  run -255 --separate-stderr pv-vm run v --raw --stream -- pwd
  assert_equal "$stderr" 'pv-vm: --raw or --stream, not both'
}

@test "many streams at once, each its own; too many are refused" {
  for i in $(seq 8); do
    pv-vm run v --raw --stdin -- cat <<<"number $i" >"out$i" &
  done
  wait
  for i in $(seq 8); do assert_equal "$(cat "out$i")" "number $i"; done
  for i in $(seq 12); do pv-vm run v --raw -- sleep 4324 >/dev/null 3>&- & done
  until_true eval '[ "$(pv-vm info v -o open_streams)" = 12 ]'
  expect_error in_use 255 pv-vm run v --stream -- true
  jobs -p | xargs kill 2>/dev/null || true
  wait || true
  until_true no_process 'sleep 4324'
  # Ports of clients that were killed come back when the guest has let go of them.
  ports_are_back() { pv-vm run v --raw -- true 2>/dev/null; }
  until_true ports_are_back
  run -0 pv-vm run v --raw -- echo again
}

@test "what a command has left behind keeps its output open until it ends" {
  run -0 pv-vm run v --raw -- sh -c '(sleep 0.3; echo late) & echo early'
  assert_output $'early\nlate'
}

@test "who holds a stream is known" {
  PV_CALLER=test.sh:7 pv-vm run v --raw -- sleep 4325 >/dev/null 3>&- &
  runner=$!
  until_true a_process 'sleep 4325'
  control=$(pv-vm info v -o console)
  python3 - "${control%/*}/sup.sock" >status <<'EOF'
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b'{"op":"status"}\n')
print(s.makefile().readline())
EOF
  kill $runner
  has ".streams[0] | .kind == \"run\" and .pid == $runner and .caller == \"test.sh:7\" and
    (.command | endswith(\"run v --raw -- sleep 4325\")) and (.since_ns | length == 19)" \
    "$(cat status)"
}

@test "tail: the last lines, what is appended, and its end" {
  guest 'seq 100 >/tmp/log'
  run -0 pv-vm tail v /tmp/log --lines 2
  assert_output $'99\n100'
  pv-vm tail v /tmp/log --lines 1 --follow >out 3>&- &
  follower=$!
  until_true grep -q 100 out
  guest 'echo more >>/tmp/log'
  until_true grep -q more out
  kill -KILL $follower
  until_true no_process 'tail -n'
  run -4 --separate-stderr pv-vm tail v /tmp/none
  [[ $stderr == *"'/tmp/none' in the guest: "* ]]
  run -2 --separate-stderr pv-vm tail v tmp/none
  run -2 --separate-stderr pv-vm tail v /tmp/log --lines nan
}

@test "run without a runner: the agent does it, to the same effect" {
  is_run_by_runner() { [ "$(guest 'cat /proc/$PPID/comm')" = pv-runner ]; }
  until_true is_run_by_runner
  # A script without "#!", both outputs, its input, its variables, and a signal.
  printf 'cat; echo "$A" >&2; kill -9 $$\n' | pv-vm put v - /bin/script --mode 755 >/dev/null
  each_way() {
    echo in | pv-vm run v --stdin --env A=b --cwd /tmp -- script |
      jq -c '.run | [.exit_status, .signal, .stdout, .stderr]'
    pv-vm run v -- seq 1 20000 | jq -r .run.stdout | md5sum
    pv-vm run v -- no-such-command | jq -c '.run | [.exit_status, .stderr]'
    # The shell's child has its output for a while longer.
    pv-vm run v -- sh -c 'pwd; readlink /proc/self/fd/0; env; sleep 0.2 && echo late &' |
      jq -c '.run | [.exit_status, .stdout, .stderr]'
  }
  each_way >by_runner
  run pv-vm run v -- killall pv-runner
  run ! is_run_by_runner
  each_way >by_agent
  # It is taken up again when it is back.
  pv-vm run v -- sh -c 'pv-runner 30 </dev/null >/dev/null 2>&1 &' >/dev/null
  until_true is_run_by_runner
  run -0 diff by_runner by_agent
  assert_equal "$(sed -n '1p;2p' by_agent)" \
    $'[137,9,"in\\n","b\\n"]\n'"$({ seq 1 20000; echo; } | md5sum)"
  [[ "$(sed -n 4p by_agent)" == *late* ]]
}

@test "more output than 16 MiB is cut there, and the document says so" {
  head -c 17000000 /dev/zero | tr '\0' a | pv-vm put v - /tmp/long >/dev/null
  pv-vm run v -- cat /tmp/long >doc
  has '.run | .stdout_truncated and (has("stderr_truncated") | not) and
    (.stdout | length) == 16777216' "$(cat doc)"
}
