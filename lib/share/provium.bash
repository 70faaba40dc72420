# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Provium for shell tests: a scope for each test, torn down whatever happens. With BATS:
#
#   load provium
#   setup() { pv_scope; }
#   @test "the guest boots" { pv-vm create v | pv-vm boot; }
#
# In a plain bash script: source it (provium bash prints its path), call pv_scope, and the scope is
# closed when the script ends. Needs bash 4.4 and the tools in PATH. See provium(7).

_pv_helper=${BASH_SOURCE[0]}

# Not in a script that a test runs: that has the environment of BATS, but none of its functions.
_pv_in_bats() { [ -n "${BATS_TEST_FILENAME:-}" ] && declare -F skip >/dev/null; }

# Where the command that is about to run is written: the nearest frame that is neither ours nor
# one of BATS itself. BATS runs a copy of the test file, with the lines where they were.
_pv_caller() {
  local i file
  for ((i = 1; i < ${#BASH_SOURCE[@]}; ++i)); do
    file=${BASH_SOURCE[i]}
    case $file in
      "$_pv_helper" | */bats-core/* | */bats-support/* | */bats-assert/*) continue ;;
    esac
    [ "$file" = "${BATS_TEST_SOURCE:-}" ] && file=$BATS_TEST_FILENAME
    printf '%s:%s' "$file" "${BASH_LINENO[i - 1]}"
    return
  done
}

# Each command says who called it, so that a stream that is still open can be traced to its line.
pv-vm() { PV_CALLER=$(_pv_caller) command pv-vm "$@"; }
pv-disk() { PV_CALLER=$(_pv_caller) command pv-disk "$@"; }
pv-fault() { PV_CALLER=$(_pv_caller) command pv-fault "$@"; }
pv-snap() { PV_CALLER=$(_pv_caller) command pv-snap "$@"; }
pv-verify() { PV_CALLER=$(_pv_caller) command pv-verify "$@"; }

# pv_scope [--own]: a fresh scope below the current one, closed by pv_teardown, which runs by itself
# unless the file has a teardown (or the script an EXIT trap): then call it there. --own: also a run
# directory that nobody else uses.
pv_scope() {
  if ! command -v pv-vm >/dev/null; then
    echo 'pv_scope: pv-vm is not in PATH' >&2
    return 1
  fi
  _pv_own_dir=
  if [ "${1:-}" = --own ]; then
    _pv_own_dir=$(mktemp -d "${TMPDIR:-/tmp}/pv.XXXXXX") || return
    export PV_RUN_DIR=$_pv_own_dir
  elif [ $# -gt 0 ]; then
    echo "pv_scope: unknown argument '$1' (there is: --own)" >&2
    return 2
  fi
  # Its own is below an outer one, of which `scope run` and an earlier pv_scope have told.
  export PV_SCOPE="${PV_SCOPE:+$PV_SCOPE/}t$$-${BATS_TEST_NUMBER:-0}-${SRANDOM:-$RANDOM}$RANDOM"
  _pv_scope=$PV_SCOPE
  if _pv_in_bats; then
    # What BATS has where the file defines none does nothing.
    case $(declare -f teardown | tail -n +3 | tr -d ' \n') in
      '' | 'return0}' | 'true}' | ':}') teardown() { pv_teardown; } ;;
    esac
  elif [ -z "$(trap -p EXIT)" ]; then
    trap 'pv_teardown $?' EXIT
  fi
}

# pv_show: consoles of the scope's VMs and journals of its disks, for someone who has to find out.
pv_show() {
  local scope name
  while read -r scope name; do
    [ "$scope" = "$PV_SCOPE" ] || continue
    echo "--- console of VM $name"
    command pv-vm console "$name" --tail 4k </dev/null 2>&1
  done < <(paste -d ' ' <(command pv-vm list -o scope </dev/null) \
    <(command pv-vm list -o name </dev/null))
  while read -r scope name; do
    [ "$scope" = "$PV_SCOPE" ] || continue
    echo "--- fault journal of disk $name"
    command pv-fault journal --disk "${name#null/}" </dev/null 2>&1 | tail -n 20
  done < <(paste -d ' ' <(command pv-disk list -o scope </dev/null) \
    <(paste -d / <(command pv-disk list -o vm </dev/null) <(command pv-disk list -o id </dev/null)))
}

# pv_teardown [STATUS]: closes the scope; shows what there is to see when the test (or STATUS) says
# failure. Fails when something could not be closed. Nothing happens without pv_scope or twice.
# shellcheck disable=SC2120  # called without by BATS
pv_teardown() {
  local status=${1:-0} closed=0
  [ -n "${_pv_scope:-}" ] || return "$status"
  _pv_in_bats && [ -z "${BATS_TEST_COMPLETED:-}" ] && status=1
  [ "$status" -ne 0 ] && pv_show >&2
  command pv-vm scope close --scope "$_pv_scope" </dev/null >/dev/null || closed=$?
  [ -n "${_pv_own_dir:-}" ] && rm -rf "$_pv_own_dir"
  _pv_scope=
  _pv_in_bats && return "$closed"
  [ "$status" -ne 0 ] && return "$status"
  return "$closed"
}

# pv_need COMMAND…: runs it; where this machine cannot (exit status 7) the test is skipped with the
# reason that the command gave. Its output is not shown.
pv_need() {
  local message status=0
  message=$("$@" 2>&1 >/dev/null </dev/null) || status=$?
  [ "$status" -eq 7 ] || return "$status"
  _pv_skip "${message:-$* is not possible here}"
}

# pv_need_vm: skips the test where no VM can run.
pv_need_vm() {
  local reason status=0
  reason=$(command pv-vm doctor -o reason </dev/null 2>&1) || status=$?
  [ "$status" -eq 7 ] || return "$status"
  _pv_skip "$reason"
}

_pv_skip() {
  _pv_in_bats && skip "$1"
  echo "skipped: $1" >&2
  exit 7
}

# pv_fixture NAME [--file FILE…] -- BUILDER: a VM that is booted, and whatever else it takes, once
# for all tests to come; for setup_file, or the beginning of a script. See pv-snap(1), fixture.
pv_fixture() {
  PV_FIXTURE=$(command pv-snap fixture -o path "$@" </dev/null) || return
  export PV_FIXTURE
}

# pv_restore VM…: each goes on from the fixture, in this test's scope.
pv_restore() {
  local vm
  if [ -z "${PV_FIXTURE:-}" ]; then
    echo 'pv_restore: call pv_fixture first' >&2
    return 1
  fi
  for vm in "$@"; do
    command pv-snap restore "$PV_FIXTURE" "$vm" </dev/null >/dev/null || return
  done
}
