#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Guests that boot from a disk of their own, as a distribution's image does.

load helper

setup_file() {
  pv-vm guest info </dev/null >/dev/null 2>&1 || return 0
  # Class 7: this machine lacks what it is made from, and the tests are skipped.
  "$BATS_TEST_DIRNAME/../disk-image" "$BATS_FILE_TMPDIR/debian.img" || [ $? -eq 7 ]
}

setup() {
  pv_setup
  need_guest
  [ -e "$BATS_FILE_TMPDIR/debian.img" ] || skip "no disk image could be built"
  cat >provium.toml <<TOML
[profiles.debian]
guest_os = "debian"
disks = ["$BATS_FILE_TMPDIR/debian.img"]
files = { "/etc/issue" = { text = "from the profile\n" } }
TOML
}
teardown() { pv_teardown; }

@test "boots from its disk, keeps what it writes over a reboot, and the image stays as it was" {
  before=$(sha256sum <"$BATS_FILE_TMPDIR/debian.img")
  head -c 5000000 /dev/urandom >bytes
  chmod 4750 bytes
  run -0 pv-vm create v --profile debian
  run -0 pv-vm boot v --timeout 300s --initial-time 2001-09-09T01:46:40.5Z \
    --file /opt/a/bytes=bytes --file '/etc/odd name:=$x "y"'
  has '.vm | .state == "booted" and .guest_os == "debian" and .disks == ["vda"] and .kernel_cmdline == null'
  # Files came through the agent.
  run -0 pv-vm run v --raw -- sh -c \
    'sha256sum </opt/a/bytes; stat -c "%a %u:%g" /opt/a/bytes; cat "/etc/odd name" /etc/issue'
  assert_line --index 0 "$(sha256sum <bytes)"
  assert_line --index 1 '4750 0:0'
  assert_line --index 2 '$x "y"from the profile'
  for how in --raw '-o run.stdout'; do
    run -0 pv-vm run v $how --user nobody -- id -u
    assert_output 65534
  done
  # The clock began at the given time when the machine was switched on.
  run -0 pv-vm run v --raw -- date +%s
  [ "$output" -ge 1000000000 ] && [ "$output" -lt 1000000300 ]
  run -0 pv-vm run v --raw -- bash -c 'grep -o "vda2 / ext4" /proc/mounts; echo kept >/var/kept'
  assert_output 'vda2 / ext4'
  pv-vm run v -- shutdown -P >down 2>&1 || true
  run -0 pv-vm wait v --state shutdown,dead -o state
  assert_output shutdown
  cd / # the VM knows where its profile is
  pv-vm boot v --timeout 300s -o state
  run -0 pv-vm run v --raw -- cat /var/kept
  assert_output kept
  pv-vm close v -o state
  assert_equal "$(sha256sum <"$BATS_FILE_TMPDIR/debian.img")" "$before"
}

@test "without an agent it boots at once, and what needs one says so" {
  sed -i '/^files/d' provium.toml
  pv-vm create v --profile debian --no-agent | pv-vm boot -o state >state
  assert_equal "$(cat state)" booted
  run -255 --separate-stderr pv-vm run v -- true
  has '.error.code == "no_agent"'
  [[ $stderr == *"without waiting for one"* ]]
  run -0 pv-vm info v
  has '.vm.no_agent == true'
}

@test "what a disk's own boot loader decides is refused, before anything starts" {
  expect_error usage 2 pv-vm create v --profile debian --cmdline quiet
  expect_error usage 2 pv-vm create v --profile debian --no-agent
  pv-vm create v --profile debian >/dev/null
  expect_error usage 2 pv-vm boot v --cmdline-append quiet
  expect_error usage 2 pv-vm boot v --no-agent
  run -0 pv-disk list
  assert_output ''
}

@test "a disk that nothing boots from ends in boot_timeout with what is missing, and leaves nothing" {
  truncate -s 1M blank.img
  printf '[profiles.blank]\ndisks = ["blank.img"]\n' >provium.toml
  pv-vm create v --profile blank >/dev/null
  expect_error boot_timeout 6 pv-vm boot v --timeout 10s
  [[ $stderr == *"no guest agent"* && $stderr == *"serial console"* ]]
  run -0 pv-disk list
  assert_output ''
  run -0 pv-vm info v -o state
  assert_output created
}
