#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a server that dies, a race of two commands or a full file system loses data, or
# leaves something that the next command cannot see and clean.

load helper
setup() { pv_setup; }
teardown() {
  [ -z "${PV_MOUNT-}" ] || umount -l "$PV_MOUNT"
  pv_teardown
}

@test "a server killed with SIGKILL: server_dead from then on, close cleans up, the data is there" {
  random_file t.img 1048576
  serve d --image t.img
  printf 'written' | pv-disk write d --offset 512
  kill -KILL "$(pv-disk info d -o pid)"
  until_true state_is d dead
  expect_error server_dead 4 pv-disk read d
  expect_error server_dead 4 bash -c 'printf x | pv-disk write d'
  expect_error server_dead 4 pv-disk stats d
  expect_error server_dead 4 pv-fault add --disk d eio_read
  ok pv-disk list
  has '.disk.id == "d" and .disk.state == "dead"'
  expect_error duplicate_name 4 pv-disk serve d --image t.img
  ok pv-disk close d
  has '.disk.state == "closed"'
  assert_equal "$(dd if=t.img bs=1 skip=512 count=7 status=none)" written
  serve d --image t.img
}

state_is() { [ "$(pv-disk info "$1" -o state </dev/null)" = "$2" ]; }

@test "qcow2: a server killed with SIGKILL takes its helper along, and what was flushed is there" {
  qemu-img create -q -f qcow2 t.qcow2 1M
  serve d --image t.qcow2
  local server helper
  server=$(pv-disk info d -o pid)
  helper=$(pgrep -P "$server" qemu-storage)
  printf 'kept' | pv-disk write d
  kill -KILL "$server"
  until_true ended "$helper"
  ok pv-disk close d
  run qemu-img check t.qcow2
  assert_success
  qemu-img convert -f qcow2 -O raw t.qcow2 out.raw
  assert_equal "$(head -c 4 out.raw)" kept
}

@test "SIGTERM ends a server in order: what is in flight is answered first" {
  serve d --scratch 1M
  local server
  server=$(pv-disk info d -o pid)
  # Less than the 2 s that a server waits for what is in flight.
  ok pv-fault add --disk d delay --delay 1500ms --op read
  pv-disk read d </dev/null >out 2>err &
  local reader=$!
  until_true in_flight d
  kill -TERM "$server"
  wait "$reader" || fail "the read failed: $(cat err)"
  jq -e '.data.length_bytes == 512' out
  until_true state_is d dead
}

@test "two serves of one id at once: exactly one wins, the other is told" {
  for _ in 1 2 3; do
    pv-disk serve d --memory 1M </dev/null >a.out 2>a.err &
    local first=$!
    pv-disk serve d --memory 1M </dev/null >b.out 2>b.err &
    local second=$! won=0
    wait "$first" && won=$((won + 1))
    wait "$second" && won=$((won + 1))
    assert_equal "$won" 1
    assert_equal "$(cat a.out b.out | jq -r 'select(.error).error.code')" duplicate_name
    ok pv-disk read d
    ok pv-disk close d
  done
}

@test "two serves of one image at once: never both" {
  truncate -s 1M t.img
  for _ in 1 2 3; do
    pv-disk serve a --image t.img </dev/null >a.out 2>/dev/null &
    local first=$!
    pv-disk serve b --image t.img </dev/null >b.out 2>/dev/null &
    local second=$! won=0
    wait "$first" && won=$((won + 1))
    wait "$second" && won=$((won + 1))
    assert [ "$won" -le 1 ]
    ok pv-disk close --all
  done
}

@test "closing twice at once is no error" {
  serve d --memory 1M
  pv-disk close d </dev/null >/dev/null 2>err &
  local other=$!
  ok pv-disk close d
  wait "$other" || fail "$(cat err)"
}

@test "many disks at once come up, work and go" {
  local i pids=()
  for i in {1..12}; do
    pv-disk serve "m$i" --memory 1M </dev/null >/dev/null &
    pids+=($!)
  done
  for i in "${pids[@]}"; do wait "$i"; done
  assert_equal "$(pv-disk list </dev/null | wc -l)" 12
  ok pv-disk close --all
  ok pv-disk list
  assert_output ''
}

@test "a full file system under a scratch disk: ENOSPC for the client, and the disk lives on" {
  [ "$(id -u)" = 0 ] || skip "needs root to mount a small tmpfs"
  mkdir -p "$PV_T/small"
  mount -t tmpfs -o size=1m,mode=0700 tmpfs "$PV_T/small" 2>/dev/null ||
    skip "cannot mount a tmpfs here"
  PV_MOUNT="$PV_T/small"
  truncate -s 4M "$PV_T/small/t.img"
  serve d --image "$PV_T/small/t.img"
  random_file data 2097152
  expect_error io 4 pv-disk write d --from data
  has '.error.errno == "ENOSPC" and .error.injected == false or .error.errno == "EIO"'
  run qio d 'write -P 1 3M 64k'
  assert_output --partial 'No space left on device'
  ok pv-disk discard d --all
  ok pv-disk write d --sector 1 --from <(head -c 512 data)
  ok pv-disk close d
}

@test "a file size limit under a disk is an error of the request, not the end of the server" {
  (
    ulimit -f 1024 # KiB
    serve d --scratch 1M
  )
  ok bash -c 'printf x | pv-disk write d --offset 1000000'
  run --separate-stderr bash -c 'ulimit -f 64; pv-disk serve e --scratch 1M </dev/null'
  assert [ "$status" -ne 0 ]
  ok pv-disk list
  assert_equal "$(jq -r .disk.id <<<"$output")" d
}

@test "a run directory that is too deep for sockets is a clear error" {
  local deep
  deep="$PV_T/$(printf 'd%.0s' {1..90})"
  expect_error invalid 4 env PV_RUN_DIR="$deep" pv-disk serve d --scratch 1M
  [[ $stderr == *PV_RUN_DIR* ]]
  run ls -A "$deep/obj"
  assert_output ''
}

@test "a run directory that others may enter, or that is no directory, is refused" {
  mkdir -m 0755 open
  expect_error system 5 env PV_RUN_DIR="$PWD/open" pv-disk list
  [[ $stderr == *0700* ]]
  : >file
  expect_error system 5 env PV_RUN_DIR="$PWD/file" pv-disk list
  expect_error system 5 env PV_RUN_DIR="$PWD/no/such/parent" pv-disk list
}

@test "a run directory behind a symlink is refused, also with a slash at the end" {
  mkdir -m 0700 real
  ln -s real link
  expect_error system 5 env PV_RUN_DIR="$PWD/link" pv-disk list
  expect_error system 5 env PV_RUN_DIR="$PWD/link/" pv-disk list
}

@test "a run directory of another user is refused" {
  [ "$(id -u)" = 0 ] || skip "needs root to make one"
  mkdir -m 0700 theirs
  chown 65534 theirs
  expect_error system 5 env PV_RUN_DIR="$PWD/theirs" pv-disk list
}

@test "sockets and files of a disk are for nobody else" {
  serve d --scratch 1M
  run find "$PV_RUN_DIR" \( -type s -o -type f -o -type d \) -perm /077
  assert_output ''
}

@test "an object whose maker was killed half way is listed or at least closed by name" {
  serve d --memory 1M
  ok pv-disk close d
  mkdir -p "$PV_RUN_DIR/obj/deadbeef" "$PV_RUN_DIR/idx/default/@disk/@"
  ln -s deadbeef "$PV_RUN_DIR/idx/default/@disk/@/half"
  expect_error duplicate_name 4 pv-disk serve half --memory 1M
  ok pv-disk close half
  serve half --memory 1M
}

@test "--foreground serves until it is told to end, and leaves nothing" {
  # What a shell starts in the background ignores SIGINT otherwise.
  env --default-signal=INT pv-disk serve d --scratch 1M --foreground </dev/null >out 2>err &
  local server=$!
  until_true grep -q serving out
  ok pv-disk read d
  kill -INT "$server"
  wait "$server"
  ok pv-disk list
  assert_output ''
}

@test "hostile bytes on the NBD and control sockets end the connection, not the server" {
  serve d --scratch 1M
  python3 - "$(sock d)" "$(pv-disk info d -o control)" <<'PY'
import socket, sys, random
rng = random.Random(7)
def talk(path, blob):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(2)
    s.connect(path)
    try:
        s.sendall(blob)
        s.shutdown(socket.SHUT_WR)
        while s.recv(65536):
            pass
    except OSError:
        pass
    s.close()
go = b"\0\0\0\3" + b"IHAVEOPT" + b"\0\0\0\7" + b"\0\0\0\6" + b"\0" * 6
for n in range(40):
    talk(sys.argv[1], rng.randbytes(rng.randrange(300)))
    talk(sys.argv[1], go + rng.randbytes(rng.randrange(600)))
    talk(sys.argv[1], go + b"\x25\x60\x95\x13" + rng.randbytes(24))
    talk(sys.argv[2], rng.randbytes(rng.randrange(300)) + b"\n")
talk(sys.argv[2], b'{"op":"read"}\n{"op":"nosuch"}\n[]\n{}\n' + b"[" * 100000 + b"\n")
PY
  ok pv-disk read d
  ok pv-disk info d
  has '.disk.in_flight == 0'
}

# If this fails, writes that were acknowledged are gone and close says that all is well.
@test "a cache that could not be written back in time is told of, and --timeout gives it longer" {
  for disk in late slow stopped; do
    truncate -s 1M $disk.img
    serve $disk --image $disk.img --layer cache --layer delay:ms=15000,ops=write
    printf 'written' | pv-disk write $disk
  done
  kill -STOP "$(pv-disk info stopped -o pid)"
  for disk in late stopped; do pv-disk close $disk </dev/null >$disk.out 2>$disk.err & done
  pv-disk close slow --timeout 60s </dev/null >slow.out &
  slow=$!
  wait $slow
  assert_equal "$(head -c 7 slow.img)" written
  wait %1 && fail 'late was closed' || assert_equal $? 4
  wait %2 && fail 'stopped was closed' || assert_equal $? 4
  for disk in late stopped; do
    assert_equal "$(wc -l <$disk.err)" 1
    [[ $(cat $disk.err) == *'its last flush did not end in time'*'lost'* ]]
    has '.error.code == "io"' "$(cat $disk.out)"
  done
  assert_equal "$(pv-disk list </dev/null)" ''
}

@test "a cache that could not be written back is told of when its disk is detached" {
  truncate -s 1M t.img
  pv-vm create v </dev/null >/dev/null
  pv-disk attach v --id c --image t.img --layer cache --layer fault </dev/null >/dev/null
  pv-fault add error --op write --disk c >/dev/null
  printf 'written' | pv-disk write c
  expect_error io 4 pv-disk detach v/c
  [[ $stderr == *"'c' is detached, but its last flush failed (EIO)"* ]]
  ok pv-disk info v/c
  has '.disk.state == "detached"'
  ok pv-disk close v/c
}

@test "a server whose start was given up is ended by close" {
  truncate -s 1M t.img
  mkfifo fifo
  # Its layer waits for somebody who opens the FIFO. Other tests have disks of this name.
  local serving="pv-disk serve d --image $PWD/t.img"
  $serving --layer reserve:ptpl=fifo </dev/null >/dev/null 2>&1 &
  until_true bash -c "ls '$PV_RUN_DIR'/obj/*/starting"
  kill $!  # not SIGINT, which a shell has such a job ignore
  wait $! || true
  pgrep -f "$serving" >/dev/null
  ok pv-disk close d
  run -1 pgrep -f "$serving"
  serve d --image t.img
}

@test "a history that could not be begun leaves nothing behind" {
  truncate -s 1M t.img
  # Room for the disk's own files, and not for a history.
  expect_error system 5 bash -c 'trap "" XFSZ; ulimit -f 8; exec pv-disk serve d --image t.img --layer history:file=h'
  [ ! -e h ]
  serve d --image t.img --layer history:file=h
}
