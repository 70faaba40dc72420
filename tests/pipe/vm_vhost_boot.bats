#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a VM does not boot with its vhost-user disks, or boots where they cannot work and
# hangs; or a cut of its power does with them what it would not do with others.

load helper
setup() { pv_setup; need_guest; }
teardown() { pv_teardown; }

guest() { pv-vm run v --raw --timeout 60s -- sh -c "$1" </dev/null; }

@test "disks of both kinds appear in their order, and what is written is in the images" {
  random_file a.img 1M
  random_file b.img 2M
  random_file c.img 3M
  pv-vm create v >/dev/null
  pv-disk attach v --id a --image a.img --transport vhost-user </dev/null >/dev/null
  pv-disk attach v --id b --image b.img </dev/null >/dev/null
  pv-disk attach v --id c --image c.img --transport auto </dev/null >/dev/null
  assert_equal "$(pv-disk info c -o transport </dev/null)" vhost-user
  ok pv-vm boot v
  assert_equal "$(guest 'cd /sys/block; for d in vda vdb vdc; do cat $d/serial; echo; done' | xargs)" \
    'a b c'
  assert_equal "$(guest 'cat /dev/vda /dev/vdb /dev/vdc | sha256sum')" \
    "$(cat a.img b.img c.img | sha256sum)"
  guest 'for d in a b c; do seq 1 9000 | dd of=/dev/vd$d bs=4k conv=notrunc,fsync 2>/dev/null; done'
  # A boot is one even though its CPUs have waited for a look at their memory.
  run ! grep -E 'paused|resumed' "$(dirname "$(pv-vm info v -o console)")/events.jsonl"
  ok pv-vm close v
  for image in a b c; do cmp -n 40000 <(seq 1 9000) $image.img; done
}

# A boot sector that says a word on the first serial port, and halts.
@test "the firmware boots from a vhost-user disk" {
  {
    printf '\x31\xc0\x8e\xd8\xbe\x16\x7c\xba\xf8\x03\xfc\xac\x84\xc0\x74\x03\xee\xeb\xf8\xf4\xeb\xfd'
    printf 'booted by vhost-user\r\n\0'
  } >boot.img
  truncate -s 510 boot.img
  printf '\x55\xaa' >>boot.img
  truncate -s 1M boot.img
  cat >provium.toml <<TOML
[profiles.bare]
disks = ["boot.img"]
agent = false
TOML
  pv-vm create v --profile bare >/dev/null
  pv-disk attach v --id vda --image boot.img --transport vhost-user </dev/null >/dev/null
  ok pv-vm boot v
  log=$(pv-vm info v -o console </dev/null)
  until_true grep -q 'booted by vhost-user' "$log"
  assert_equal "$(pv-disk stats vda </dev/null | jq '.disk.stats.read.completed > 0')" true
}

@test "a VM with memory of its own is refused a vhost-user disk, at boot and when it runs" {
  cat >provium.toml <<TOML
[profiles.private]
qemu_args = ["-object", "memory-backend-ram,id=mine,size=256M", "-machine", "memory-backend=mine"]
memory = "256M"
kernel = "$(pv-vm profiles -o kernel </dev/null | head -n 1)"
initrd = "$(pv-vm profiles -o initrd </dev/null | head -n 1)"
TOML
  pv-vm create v --profile private >/dev/null
  ok pv-disk attach v --id a --memory 1M --transport auto -o transport
  assert_output nbd
  pv-disk attach v --id b --memory 1M --transport vhost-user </dev/null >/dev/null
  expect_error unsupported 4 pv-vm boot v
  assert_equal "$(jq -r .vm.state <<<"$(pv-vm info v </dev/null)")" created
  ok pv-disk detach b
  ok pv-vm boot v -o state
  assert_output booted
  expect_error unsupported 4 pv-disk attach v --id c --memory 1M --transport vhost-user
  ok pv-disk attach v --id c --memory 1M --transport auto -o transport
  assert_output nbd
  guest 'dd if=/dev/vdb of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null'
}

@test "a VM whose disk server does not answer is not booted, and says which" {
  pv-vm create v | pv-disk attach --id vda --memory 1M --transport vhost-user >/dev/null
  server=$(pv-disk info vda -o pid </dev/null)
  kill -STOP "$server"
  expect_error timeout 6 pv-vm boot v
  has '.error.message | contains("v/vda") and contains("does not answer")'
  kill -CONT "$server"
  ok pv-vm boot v -o state
}

# fill DEVICE LETTER BLOCK DD_FLAG…: 64 KiB of a letter, inside the guest.
fill() {
  guest "tr '\\0' $2 </dev/zero |
    dd of=/dev/$1 bs=4k count=16 seek=$(($3 * 16)) iflag=fullblock ${*:4} 2>/dev/null"
}
letters() {
  guest "for i in 0 1 2 3; do
    dd if=/dev/$1 bs=64k skip=\$i count=1 iflag=direct 2>/dev/null | head -c 1 | tr '\\0' .; done"
}

@test "after a power cut the VM boots again and sees what it had flushed" {
  truncate -s 4M a.img
  pv-vm create v >/dev/null
  pv-disk attach v --id vda --image a.img --layer cache --transport vhost-user </dev/null >/dev/null
  pv-vm boot v </dev/null >/dev/null
  fill vda A 0 oflag=direct
  fill vda S 1 conv=fsync
  fill vda U 2 oflag=direct
  ok pv-fault power-cut v
  has '.vm.state == "shutdown" and .vm.reason == "its power was cut"'
  assert_equal "$(jq -c '[.power_cut[] | [.id, .dropped_bytes, .kept_bytes]]' <<<"$output")" \
    '[["vda",65536,0]]'
  ok pv-vm boot v -o state
  assert_equal "$(letters vda)" AS..
}
