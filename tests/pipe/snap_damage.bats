#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a damaged snapshot is restored, or somebody who dies while one is taken or restored
# takes the VM with him.

load helper
load helper_snap

# Kernel, initial RAM disk and the base of an overlay are files of our own, to be changed.
setup_file() {
  snap_file || return 0
  cp "$(pv-vm profiles -o kernel | head -n 1)" kernel
  cp "$(pv-vm profiles -o initrd | head -n 1)" initrd
  printf '[profiles.own]\nkernel = "kernel"\ninitrd = "initrd"\n' >provium.toml
  head -c 3000000 /dev/urandom >data.img
  head -c 2000000 /dev/urandom >base.img
  truncate -s 4M data.img base.img
  pv-vm create v --profile own | pv-disk attach --id vda --image data.img >/dev/null
  pv-disk attach v --id vdb --image base.img --layer cow </dev/null >/dev/null
  pv-vm boot v >/dev/null
  guest v 'echo over | dd of=/dev/vdb conv=fsync 2>/dev/null'
  pv-snap take v "$PV_SNAP" --stop </dev/null >/dev/null
  pv-vm close v >/dev/null
}
setup() { snap_setup; }
teardown() {
  if mountpoint -q "${PV_SHARED-/nonexistent}/${PV_SCOPE-x}/m"; then
    pv-vm scope close </dev/null >/dev/null
    umount -l "$PV_SHARED/$PV_SCOPE/m"
  fi
  snap_teardown
}
teardown_file() { close_shared_vm; }

# refused CODE: the shared snapshot is, by restore, clone and check, before anything starts.
refused() {
  expect_error "$1" 4 pv-snap restore "$PV_SNAP" v
  run -1 --separate-stderr pgrep -af "qemu-system.*$PV_RUN_DIR"
  assert_equal "$(ls "$PV_RUN_DIR/obj")" ''
  assert_equal "$(pv-vm list </dev/null)" ''
  expect_error "$1" 4 pv-snap check "$PV_SNAP"
}

# flip FILE OFFSET BIT
flip() {
  python3 - "$@" <<'PY'
import sys
with open(sys.argv[1], "r+b") as f:
    f.seek(int(sys.argv[2]))
    byte = f.read(1)[0]
    f.seek(int(sys.argv[2]))
    f.write(bytes([byte ^ 1 << int(sys.argv[3])]))
PY
}

sleep_ms() { sleep "$(printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000)))"; }
works() { [ "$(guest v 'echo fine' 2>/dev/null)" = fine ]; }
seed() {
  RANDOM=${PV_SEED:-$((SRANDOM % 30000))}
  PV_SEED_NOW=$RANDOM
  echo "PV_SEED=$PV_SEED_NOW"
  RANDOM=$PV_SEED_NOW
}

@test "a file that is missing, cut short or has one bit changed is found before anything starts" {
  # If this fails, a guest goes on with memory or disks that are not its own.
  seed
  while read -r name; do
    file=$PV_SNAP/$name size=$(stat -c %s "$PV_SNAP/$name")
    echo "$name, $size bytes"
    mv "$file" aside
    refused snapshot_corrupt
    mv aside "$file"
    tail -c 2 "$file" >last # the last of the manifest's is a newline
    truncate -s -2 "$file"
    refused snapshot_corrupt
    cat last >>"$file"
    printf x >>"$file"
    [ "$name" = manifest.json ] || refused snapshot_corrupt
    truncate -s "$size" "$file"
    at=$(((RANDOM * 32768 + RANDOM) % size)) bit=$((RANDOM % 8))
    echo "byte $at, bit $bit"
    flip "$file" $at $bit
    refused snapshot_corrupt
    [[ $stderr == *"${name%.json}"* ]]
    expect_error snapshot_corrupt 4 pv-snap clone "$PV_SNAP" --count 2
    flip "$file" $at $bit
  done < <(cd "$PV_SNAP" && find . -type f ! -name verified -printf '%P\n')
  for _ in {1..20}; do
    at=$((RANDOM % $(stat -c %s "$PV_SNAP/manifest.json"))) bit=$((RANDOM % 8))
    echo "manifest: byte $at, bit $bit"
    flip "$PV_SNAP/manifest.json" $at $bit
    expect_error snapshot_corrupt 4 pv-snap restore "$PV_SNAP" v
    flip "$PV_SNAP/manifest.json" $at $bit
  done
  # What was put back is whole again; what was found whole before is only remembered.
  for known in x '{}' '[' ''; do
    printf '%s' "$known" >"$PV_SNAP/verified"
    ok pv-snap restore "$PV_SNAP" v
    pv-vm close v >/dev/null
  done
}

@test "what is no file, or no snapshot at all, is refused and nothing waits for it" {
  # If this fails, a restore hangs on a pipe or reads a file outside of the snapshot.
  for name in ram state manifest.json disks/vda/data; do
    mv "$PV_SNAP/$name" aside
    for make in mkfifo mkdir "ln -s $PWD/aside" 'ln -s /dev/zero'; do
      $make "$PV_SNAP/$name"
      echo "$make $name"
      if [[ $name != manifest.json || $make != ln*aside ]]; then
        expect_error snapshot_corrupt 4 timeout 20 pv-snap restore "$PV_SNAP" v
      fi
      rm -r "${PV_SNAP:?}/$name"
    done
    mv aside "$PV_SNAP/$name"
  done
  mkdir empty
  expect_error snapshot_corrupt 4 pv-snap restore ./empty v
  touch file
  expect_error no_such_snapshot 4 pv-snap restore ./file v
  expect_error no_such_snapshot 4 pv-snap info ./nosuch
  assert_equal "$(pv-vm list)" ''
}

@test "another kernel, or another initial RAM disk, is found; the same one copied anew is not" {
  # If this fails, a guest is restored that cannot be reset, or boots something else then.
  for name in kernel initrd; do
    file=$PV_SHARED/w/$name
    mv "$file" aside
    refused incompatible
    has ".error.differs == [\"$name\"]"
    cp aside "$file"
    ok pv-snap check "$PV_SNAP"
    flip "$file" 5000 3
    refused incompatible
    has ".error.differs == [\"$name\"]"
    echo more >>"$file"
    refused incompatible
    [[ $stderr == *"$file"* ]]
    mv aside "$file"
  done
  ok pv-snap restore "$PV_SNAP" v
}

@test "an overlay whose base has changed is not put on it" {
  # If this fails, a disk is made of two that never belonged together.
  base=$PV_SHARED/w/base.img
  touch -r "$base" times
  flip "$base" 1000000 2
  refused incompatible
  [[ $stderr == *base.img* ]]
  flip "$base" 1000000 2
  touch -r times "$base"
  ok pv-snap restore "$PV_SNAP" v
  assert_equal "$(guest v 'head -c 4 /dev/vdb; tail -c +513 /dev/vdb | md5sum')" \
    "over$(tail -c +513 "$base" | md5sum)"
  pv-vm close v >/dev/null
  truncate -s 8M "$base"
  refused incompatible
  truncate -s 4M "$base"
  mv "$base" aside
  refused incompatible
  mv aside "$base"
  touch -r times "$base"
}

@test "where something is already, or nothing can be made, no snapshot is taken and the VM goes on" {
  # If this fails, taking a snapshot overwrites something, or its failure stops the VM.
  restored "$PV_SNAP" v
  mkdir dir
  echo kept >file
  ln -s /nonexistent link
  for place in dir file link dir/ ../"$PV_SCOPE"/dir; do
    expect_error duplicate_name 4 pv-snap take v "./$place"
  done
  assert_equal "$(cat file)$(ls dir)$(readlink link)" kept/nonexistent
  for place in nosuch/s file/s /proc/s "/dev/null/s"; do
    run --separate-stderr pv-snap take v "./$place" </dev/null
    [ "$status" -eq 5 ] || { echo "$place: $status $output"; return 1; }
    assert_equal "${#stderr_lines[@]}" 1
  done
  assert_equal "$(ls)" $'dir\nfile\nlink'
  works
  ok pv-snap take v ./s
}

@test "a full disk leaves no snapshot, and the VM goes on" {
  # If this fails, half a snapshot is there, or the guest has stood still for good.
  restored "$PV_SNAP" v
  guest v 'head -c 3000000 /dev/urandom >/dev/vda; sync'
  mkdir m
  # Also where only the last of it has no room.
  ok pv-snap take v ./whole
  needed=$(($(jq .snap.size_bytes <<<"$output") / 1024))
  for size in 1m 30m $((needed - 2000))k; do
    mount -t tmpfs -o size=$size tmpfs m 2>/dev/null || skip 'this test has to mount a file system'
    for flag in '' --freeze; do
      run --separate-stderr pv-snap take v ./m/s $flag </dev/null
      [ "$status" -eq 5 ] || { echo "$size: $status $output"; return 1; }
      assert_equal "${#stderr_lines[@]}" 1
      [[ $stderr == *[Nn]"o space"* || $stderr == *room* ]]
      assert_equal "$(ls m)" ''
      works
    done
    umount m
  done
  guest v 'echo new | dd of=/dev/vda conv=fsync 2>/dev/null'
  ok pv-snap take v ./s
  restored ./s w
  assert_equal "$(guest w 'head -c 3 /dev/vda')" new
}

@test "two snapshots at once are taken one after the other, at one place only one of them" {
  # If this fails, two takers get in each other's way, or one lets the VM run under the other.
  restored "$PV_SNAP" v
  for i in 1 2 3; do pv-snap take v "./s$i" </dev/null >"o$i" 2>&1 & pids[i]=$!; done
  for i in 1 2 3; do wait "${pids[i]}" || { cat o?; return 1; }; done
  for i in 1 2 3; do ok pv-snap check "./s$i"; done
  for i in 1 2 3; do pv-snap take v ./same </dev/null >"o$i" 2>/dev/null & done
  wait
  assert_equal "$(cat o1 o2 o3 | jq -r '.error.code // "taken"' | sort | tr '\n' ' ')" \
    'duplicate_name duplicate_name taken '
  ok pv-snap check ./same
  assert_equal "$(compgen -G '*.tmp-*' || true)" ''
  works
}

@test "whoever takes a snapshot may be killed at any moment: the VM runs, and none is half there" {
  # If this fails, a VM stands still for good, or half a snapshot can be restored.
  restored "$PV_SNAP" v
  start=$(date +%s%N)
  ok pv-snap take v ./first
  whole_ms=$(since_ms "$start")
  seed
  for i in {1..20}; do
    place="./k$i"
    ((i % 3)) || place=''
    flags=''
    ((i % 4)) || flags=--freeze
    # shellcheck disable=SC2086
    pv-snap take v $place $flags </dev/null >/dev/null 2>&1 3>&- &
    taker=$!
    after=$((RANDOM % (whole_ms + whole_ms / 4)))
    sleep_ms $after
    kill -KILL $taker 2>/dev/null || true
    wait $taker || true
    echo "round $i: after $after of $whole_ms ms"
    until_true works
    if [ -n "$place" ] && [ -e "$place" ]; then ok pv-snap check "$place"; fi
    run -0 --separate-stderr pv-snap list </dev/null
    assert_equal "$(jq -r '.snap.problem | select(.)' <<<"$output")" ''
    while read -r name; do ok pv-snap check "$name"; done < <(jq -r .snap.name <<<"$output")
  done
  # What the killed ones left in the scope has gone; what they left at a path goes with the next.
  pv-snap list </dev/null >/dev/null
  assert_equal "$(compgen -G "$PV_RUN_DIR/obj/*/bundle.tmp-*" || true)" ''
  for half in ./*.tmp-*; do
    [ -e "$half" ] || continue
    [ -e "$half/manifest.json" ] || expect_error snapshot_corrupt 4 pv-snap restore "$half" w
    place=${half%.tmp-*}
    rm -rf "$place"
    ok pv-snap take v "$place"
    [ ! -e "$half" ]
  done
  ok pv-snap take v ./last
  restored ./last w
  assert_equal "$(guest w 'head -c 4 /dev/vdb')" over
  guest v 'echo x | dd of=/dev/vda conv=fsync 2>/dev/null'
}

@test "whoever restores may be killed at any moment: the VM can be restored again, and closed" {
  # If this fails, a VM is neither there nor gone, or its processes outlive it.
  start=$(date +%s%N)
  restored "$PV_SNAP" v
  whole_ms=$(since_ms "$start")
  pv-vm close v >/dev/null
  nothing_runs() {
    local pid
    for pid in $(pv_processes); do
      case $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null) in *qemu* | *pv-disk* | *pv-snap* | *pv-vm*) return 1 ;; esac
    done
  }
  seed
  for i in {1..20}; do
    pv-snap restore "$PV_SNAP" v </dev/null >/dev/null 2>&1 3>&- &
    pid=$!
    after=$((RANDOM % (whole_ms + whole_ms / 4)))
    sleep_ms $after
    kill -KILL $pid 2>/dev/null || true
    wait $pid || true
    state=$(pv-vm info v -o state </dev/null 2>/dev/null || echo none)
    echo "round $i: after $after of $whole_ms ms, $state"
    # What is half restored cannot be booted.
    [[ $state =~ ^(none|dead|booted|paused)$ ]] || assert_equal "$(pv-disk list </dev/null)" ''
    if ((i % 2)); then
      run --separate-stderr pv-snap restore "$PV_SNAP" v </dev/null
      # It has been done nevertheless, or has died and says so.
      [ "$status" -eq 0 ] || [ "$(code_of)" = wrong_state ] || { echo "$output"; return 1; }
      state=$(pv-vm info v -o state </dev/null)
      echo "then $state"
      [ "$state" = dead ] || until_true works
    fi
    pv-vm close v </dev/null >/dev/null
    until_true nothing_runs
    assert_equal "$(pv-disk list </dev/null)$(pv-vm list </dev/null)" ''
  done
  ok pv-snap check "$PV_SNAP"
  ok pv-snap restore "$PV_SNAP" v
}

@test "a supervisor that is slow to see that its restore was killed does not spoil the next one" {
  # If this fails, a VM is restored, and the first supervisor then takes its sockets or disks away.
  for i in {1..20}; do
    pv-snap restore "$PV_SNAP" v </dev/null >/dev/null 2>&1 3>&- &
    pid=$!
    until slow=$(pgrep -x pv-vm-sup -P $pid); do kill -0 $pid || break; done
    [ -z "$slow" ] || kill -STOP $slow
    kill -KILL $pid || true
    wait $pid || true
    # It may have been quick, and the VM booted.
    [ "$(pv-vm info v -o state </dev/null)" = dead ] && break
    [ -z "$slow" ] || kill -CONT $slow
    pv-vm close v </dev/null >/dev/null
  done
  [ "$i" -lt 20 ]
  assert_equal "$(pv-vm info v -o reason </dev/null)" 'its restore was killed'
  expect_error timeout 6 pv-snap restore "$PV_SNAP" v --timeout 300ms
  pv-snap restore "$PV_SNAP" v </dev/null >out 2>err 3>&- &
  pid=$!
  sleep 0.3
  kill -CONT "$slow"
  wait $pid
  until_true ended "$slow"
  works
  pv-vm close v </dev/null >/dev/null
}

@test "supervisor, QEMU or a disk's server killed while a snapshot is taken: it is said, in time" {
  # If this fails, taking a snapshot of what has died hangs, or ends in something that looks whole.
  seed
  for victim in supervisor_pid pid disk; do
    for round in 1 2 3; do
      restored "$PV_SNAP" v
      if [ $victim = disk ]; then pid=$(pv-disk info v/vda -o pid </dev/null)
      else pid=$(pv-vm info v -o $victim </dev/null); fi
      timeout 60 pv-snap take v ./s </dev/null >out 2>err 3>&- &
      taker=$!
      sleep_ms $((RANDOM % 300))
      kill -KILL "$pid"
      status=0
      wait $taker || status=$?
      echo "$victim, round $round: $status $(cat err)"
      if [ $status -eq 0 ]; then
        ok pv-snap check ./s
        rm -r s
      else
        [ $status -eq 4 ]
        assert_equal "$(wc -l <err)" 1
        [ ! -e s ]
      fi
      assert_equal "$(compgen -G 's.tmp-*' || true)" ''
      pv-vm close v </dev/null >/dev/null
    done
  done
  ok pv-snap restore "$PV_SNAP" v
}

@test "a snapshot that cannot be written to is restored with a copy of its memory" {
  # If this fails, a snapshot on a read-only medium cannot be restored, or is changed.
  mkdir m
  mount --bind "$PV_SNAP" m 2>/dev/null && mount -o remount,bind,ro m 2>/dev/null ||
    skip 'this test has to mount a file system'
  ok pv-snap restore "$PWD/m" v
  has '.vm.ram == "copied" and .vm.state == "booted"'
  assert_equal "$(guest v 'head -c 4 /dev/vdb')" over
  guest v 'echo mine | dd of=/dev/vda conv=fsync 2>/dev/null; echo here >/tmp/x'
  ok pv-snap take v ./s
  ok pv-snap restore ./s w
  has '.vm.ram == "mapped"'
  assert_equal "$(guest w 'head -c 4 /dev/vda; cat /tmp/x')" minehere
  expect_error system 5 pv-snap delete "$PWD/m" --force
  ok pv-snap check "$PWD/m"
}
