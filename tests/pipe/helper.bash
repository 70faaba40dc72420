# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# What the BATS files share: a run directory and a working directory of its own for each test, and
# a teardown that closes everything and fails the test when anything of it is left.
#
#   load helper
#   setup() { pv_setup; }
#   teardown() { pv_teardown; }

bats_require_minimum_version 1.5.0
# shellcheck source=SCRIPTDIR/helper_run.bash
source "${BASH_SOURCE[0]%/*}/helper_run.bash"

pv_setup() {
  pv_trace
  command -v pv-disk >/dev/null || fail 'pv-disk is not in PATH: put build/bin there first'
  # Short, because socket paths below it must stay under 108 bytes. Named after the file and the
  # test, so that what is left of it says whose it is.
  local file=${BATS_TEST_FILENAME##*/} n=0
  until PV_T="${PV_TMP:-/tmp}/${file%.bats}.${BATS_TEST_NUMBER:-f}.$((n++))" &&
    mkdir "$PV_T" 2>/dev/null; do
    [ -e "$PV_T" ] || fail "cannot make $PV_T"
  done
  export PV_T PV_RUN_DIR="$PV_T/run"
  unset PV_SCOPE XDG_RUNTIME_DIR PV_NO_IO_URING PV_QSD
  mkdir "$PV_T/w"
  cd "$PV_T/w" || return 1
}

# Processes that were started with this test's run directory in their environment. (That of one that
# has ended, and is to be buried yet, cannot be read.)
pv_processes() {
  local environ pid
  for environ in $(PV_RUN_DIR='' exec grep -lsaF "PV_RUN_DIR=$PV_T/run" /proc/[0-9]*/environ); do
    pid=${environ#/proc/}
    echo "${pid%/environ}"
  done
}

# left_in FOLDER: whether there is something in it.
left_in() {
  local entries=("$1"/*)
  [ -e "${entries[0]}" ] || [ -L "${entries[0]}" ]
}

# pv_close_all: what a test has left open, in every scope.
pv_close_all() {
  local scope
  left_in "$PV_RUN_DIR/obj" || return 0
  for scope in "$PV_RUN_DIR"/idx/*/; do
    scope=${scope%/}
    pv-vm scope close "${scope##*/}" </dev/null >/dev/null 2>&1
  done
}

pv_teardown() {
  local left='' pid status=0
  cd / || return 1
  export PV_RUN_DIR="$PV_T/run"
  pv_close_all
  # What was told to end may take a moment to be gone.
  for _ in {1..200}; do
    left=$(pv_processes)
    [ -z "$left" ] && break
    sleep 0.05
  done
  for pid in $left; do
    echo "left running: $pid $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null)"
    kill -KILL "$pid" 2>/dev/null
    status=1
  done
  if left_in "$PV_RUN_DIR/obj"; then
    echo "left behind: $(find "$PV_RUN_DIR/obj" "$PV_RUN_DIR/idx" -mindepth 1)"
    status=1
  fi
  rm -rf "$PV_T"
  return "$status"
}

# serve ID FLAGS…: a disk without a VM.
serve() {
  pv-disk serve "$@" </dev/null >/dev/null
}

uri() { printf 'nbd+unix:///?socket=%s' "$(sock "$1")"; }
sock() {
  local control
  control=$(pv-disk info "$1" -o control </dev/null) || return
  printf '%s' "${control%ctl.sock}nbd.sock"
}

# qio ID COMMAND…: qemu-io on our server, write-back caching so that only asked-for flushes happen.
qio() {
  local id=$1 args=() command
  shift
  for command in "$@"; do args+=(-c "$command"); done
  qemu-io -f raw -t writeback "${args[@]}" "$(uri "$id")"
}

# ended PID: it may be a zombie that nobody has buried yet.
ended() { case $(ps -o stat= -p "$1") in '' | Z*) ;; *) return 1 ;; esac; }

# slay PID: it is gone when this returns.
slay() {
  kill -KILL "$1"
  until_true ended "$1"
}

# luks_img ARGUMENTS: qemu-img, which measures its CPU time to know how long a key is to be
# stretched, and gives up when the kernel's accounting shows none yet.
luks_img() {
  local _
  for _ in {1..20}; do
    qemu-img "$@" 2>luks_img.err && return
    grep -q 'accurate CPU usage' luks_img.err || break
  done
  cat luks_img.err >&2
  return 1
}

# in_flight ID: it has a request that is not answered yet.
in_flight() { [ "$(pv-disk info "$1" -o in_flight </dev/null)" -ge 1 ]; }

# guest_vm VM…: each runs, as if it had just booted. From a snapshot that `make check` takes once,
# which is a twentieth of a boot; disks go in with `plug`. Not for tests of the boot itself.
guest_vm() {
  local vm
  for vm in "$@"; do
    if [ -n "${PV_GUEST_SNAP:-}" ]; then
      pv-snap restore "$PV_GUEST_SNAP" "$vm" </dev/null >/dev/null || return
    else
      pv-vm create "$vm" | pv-vm boot >/dev/null || return
    fi
  done
}

# bare_profile: from here on a profile `bare`, of a machine that halts at once. For tests of
# machines and not of guests: one that has no agent to wait for is booted too, but runs for seconds.
bare_profile() {
  { printf '\xf4\xeb\xfd'; head -c 507 /dev/zero; printf '\x55\xaa'; } >halt.img
  truncate -s 64k halt.img
  printf '[profiles.bare]\ndisks = ["halt.img"]\nagent = false\n' >provium.toml
}

# boot_smp VM FLAGS…: boots one with several CPUs. Under QEMU 7.2's emulation with a thread for each
# CPU a kernel stands still for good, now and then, while it patches its own code: one boot of forty
# on a busy machine. Such a VM is booted once more.
boot_smp() {
  pv-vm boot "$@" --timeout 30s </dev/null 2>/dev/null || pv-vm boot "$@" </dev/null
}

# For a file whose tests share one VM `v`; shared_vm is called in setup_file with the flags of its
# creation, close_shared_vm in teardown_file.
shared_vm() {
  pv_setup
  export PV_SHARED="$PV_T"
  pv-vm guest info </dev/null >/dev/null 2>&1 || return 0
  if [ $# -eq 0 ]; then
    guest_vm v
  else
    pv-vm create v "$@" >/dev/null && boot_smp v >/dev/null
  fi
}
close_shared_vm() {
  export PV_T="$PV_SHARED"
  pv_teardown
}

# For the tests of such a file that need disks of their own: plug ID FLAGS… puts one into `v`, the
# first as /dev/vda; unplug_all, in teardown, takes them out again.
plug() { pv-disk attach v --id "$@" </dev/null >/dev/null; }
unplug_all() {
  local id
  for id in $(pv-disk list </dev/null |
    jq -r '.disk | select(.vm == "v" and .state != "detached").id'); do
    pv-fault clear --disk "v/$id" </dev/null >/dev/null 2>&1
    pv-disk detach "v/$id" --force --timeout 20s </dev/null >/dev/null
  done
}

# random_file NAME BYTES
random_file() { head -c "$2" /dev/urandom >"$1"; }

# need_guest: for tests that boot a VM. `make check` builds the guest beforehand.
need_guest() {
  [ -n "${PV_GUEST_SNAP:-}" ] || pv-vm guest info </dev/null >/dev/null 2>&1 ||
    skip "no guest image; run: pv-vm guest build"
}

# Where the load is; see tests/programs/fsx.cpp.
fsx_program() {
  local fsx
  fsx=$(dirname "$(command -v pv-verify)")/../programs/fsx
  [ -x "$fsx" ] || fail "no $fsx: make bats makes it"
  echo "$fsx"
}

# The host's mke2fs with its libraries, and the load, for `create`: flags in $extras.
add_programs() {
  local library
  extras=(--file /bin/fsx="$(fsx_program)" --file /e2fs/mke2fs=/usr/sbin/mke2fs
    --file /sbin/mkfs.ext4:='#!/bin/sh
exec /e2fs/ld-linux-x86-64.so.2 --library-path /e2fs /e2fs/mke2fs -t ext4 "$@"')
  for library in $(ldd /usr/sbin/mke2fs | grep -o '/[^ ]*'); do
    extras+=(--file "/e2fs/${library##*/}=$(realpath "$library")")
  done
}
