# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# For a file whose tests share one VM `v`. What a file needs otherwise it defines after the load.
#
#   load helper
#   load helper_shared
#   teardown() { unplug_all; }   where tests plug in disks

setup_file() { shared_vm; }
teardown_file() { close_shared_vm; }
setup() {
  pv_trace
  need_guest
  cd "$BATS_TEST_TMPDIR" || return 1
}
