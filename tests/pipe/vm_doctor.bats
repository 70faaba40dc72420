#!/usr/bin/env bats
# doctor: what it says is so, it says it in both forms, and exit 7 means that no VM can run.

load helper

setup() { pv_setup; }
teardown() { pv_teardown; }

@test "doctor: a status and a detail for each check, as JSON and as a table" {
  need_guest
  run -0 --separate-stderr pv-vm doctor
  has '.doctor | .can_run_vms and .reason == null and (.checks | length) >= 15'
  has 'all(.doctor.checks[]; (.status | IN("ok", "limited")) and (.detail | length) > 0)'
  version=$(qemu-system-x86_64 -version | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -n 1)
  has ".doctor.qemu_version == \"$version\""
  run -0 pv-vm doctor --text
  assert_line --index 0 --regexp '^check +status +detail'
  assert_line --regexp '^vhost-user +(ok|limited) '
  assert_line --regexp '^run directory +ok +/'
}

@test "doctor: without QEMU or a guest it is exit 7, with the reason and what to run" {
  PV_QEMU=/nonexistent run -7 --separate-stderr pv-vm doctor
  has '.doctor | (.can_run_vms | not) and (.reason | contains("/nonexistent")) and
       (.install | contains("qemu-system-x86"))'
  PV_CACHE_DIR=$PWD/none run -7 --separate-stderr pv-vm doctor --text
  assert_line --regexp '^guest +missing '
  assert_line --regexp '^to do .*pv-vm guest build'
}
