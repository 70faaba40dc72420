# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# For a file whose tests go on from one snapshot, $PV_SNAP: its setup_file calls snap_file, and
# where that succeeds boots a VM and takes it. Each test has a scope and a directory of its own in
# the file's run directory, which is closed after it; what the file leaves is looked at in its end.
#
#   load helper
#   load helper_snap
#   setup_file() { snap_file || return 0; …; pv-snap take v "$PV_SNAP" --stop; pv-vm close v; }
#   setup() { snap_setup; }
#   teardown() { snap_teardown; }
#   teardown_file() { close_shared_vm; }

snap_file() {
  pv_setup
  export PV_SHARED="$PV_T" PV_SNAP="$PV_T/snap"
  pv-vm guest info </dev/null >/dev/null 2>&1
}

snap_setup() {
  pv_trace
  need_guest
  export PV_T="$PV_SHARED" PV_RUN_DIR="$PV_SHARED/run" PV_SCOPE="t$BATS_TEST_NUMBER"
  mkdir "$PV_T/$PV_SCOPE"
  cd "$PV_T/$PV_SCOPE" || return 1
}

snap_teardown() {
  cd / || return 1
  [ -n "${PV_SCOPE-}" ] || return 0
  pv-vm scope close </dev/null >/dev/null 2>&1
  rm -rf "${PV_SHARED:?}/$PV_SCOPE"
}

# restored SNAP [VM] [FLAG…]: quietly.
restored() { pv-snap restore "$@" </dev/null >/dev/null; }

# guest VM WORDS: a shell command in the guest, its output as it is.
guest() { pv-vm run "$1" --raw -- sh -c "$2" </dev/null; }
