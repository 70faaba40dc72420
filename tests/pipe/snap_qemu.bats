#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a snapshot goes on with a QEMU that it was not taken with, or is taken with one that
# cannot; or a guest's memory is left when all that used it is gone.

load helper
load helper_snap

setup_file() {
  snap_file || return 0
  guest_vm v
  pv-snap take v "$PV_SNAP" --stop </dev/null >/dev/null
  pv-vm close v >/dev/null
}
setup() { snap_setup; }
teardown() { snap_teardown; }
teardown_file() { close_shared_vm; }

# qemu_that WORDS: from here on QEMU is a script that does this with its arguments, then runs it.
qemu_that() {
  printf '#!/bin/bash\n%s\nexec qemu-system-x86_64 "$@"\n' "$1" >qemu
  chmod +x qemu
  export PV_QEMU=$PWD/qemu
}

# memory_of PID: where it maps the file without a name that is the guest's memory.
memory_of() { grep -E ' /memfd:provium-ram \(deleted\)$' "/proc/$1/maps"; }

@test "a snapshot names the QEMU that it was taken with, and goes on with no other" {
  # If this fails, a guest goes on in devices that are not those it knew.
  version=$(qemu-system-x86_64 -version | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -n 1)
  assert_equal "$(pv-snap info "$PV_SNAP" -o snap.qemu_version </dev/null)" "$version"
  qemu_that '[ "$1" = -version ] && { echo "QEMU emulator version 99.1.2"; exit; }'
  for verb in 'restore PV w' 'clone PV --count 2 --name w%' 'check PV'; do
    # shellcheck disable=SC2086
    expect_error incompatible 4 pv-snap ${verb/PV/"$PV_SNAP"}
    has '.error.differs == ["qemu_version"] and (.error.message | contains("99.1.2"))'
  done
  assert_equal "$(pv-vm list </dev/null)" ''
  unset PV_QEMU
  restored "$PV_SNAP" w
}

@test "with a QEMU that copies the guest's memory no snapshot is taken, and doctor says so" {
  # If this fails, a snapshot is taken whose next one has the memory of the first.
  qemu_that 'set -- "${@/share=on/share=off}"'
  run --separate-stderr pv-vm doctor
  has '.doctor | (.snapshots | not) and any(.problems[]; contains("copies the guest"))'
  pv-vm create v </dev/null | pv-vm boot >/dev/null
  expect_error unsupported 4 pv-snap take v ./s
  has '.error.message | contains("pv-vm doctor")'
  # shellcheck disable=SC2154  # run sets it
  assert_equal "$(wc -l <<<"$stderr")" 1
  [ ! -e s ]
  ok pv-vm run v -- true
  pv-vm close v >/dev/null
  unset PV_QEMU
  run --separate-stderr pv-vm doctor
  has '.doctor.snapshots'
}

@test "the guest's memory has no name, and nothing of it is left when all are killed" {
  # If this fails, a killed VM fills the memory of the host until it is started anew.
  for victim in supervisor_pid pid; do
    pv-vm create v </dev/null | pv-vm boot >/dev/null
    qemu=$(pv-vm info v -o pid </dev/null) supervisor=$(pv-vm info v -o supervisor_pid </dev/null)
    run -0 memory_of "$qemu"
    run -1 grep -E " (/dev/shm|$PV_RUN_DIR)/" "/proc/$qemu/maps"
    slay "$(pv-vm info v -o $victim </dev/null)"
    until_true ended "$qemu"
    until_true ended "$supervisor"
    pv-vm close v >/dev/null
  done
}
