#!/usr/bin/env bats
# Disks of a guest: order, names, and what happens when a server goes away.

load helper

setup() { pv_setup; need_guest; }
teardown() { pv_teardown; }

@test "cold disks appear in the order in which they were attached, with serial and sector size" {
  truncate -s 1M a.img
  truncate -s 2M b.img
  pv-vm create v >/dev/null
  pv-disk attach v --id first --image a.img --sector-size 4096 >/dev/null
  pv-disk attach v --id second --image b.img --serial S-2 --read-only >/dev/null
  pv-vm boot v >/dev/null
  run -0 pv-vm run v --raw -- sh -c 'cd /sys/block; for d in vda vdb; do
    echo "$(cat $d/serial) $(cat $d/size) $(cat $d/queue/logical_block_size) $(cat $d/ro)"; done'
  assert_line --index 0 "first 2048 4096 0"
  assert_line --index 1 "S-2 4096 512 1"
}

# row A2
@test "the default id is attached-VM, and a second one is a duplicate" {
  truncate -s 1M a.img b.img
  pv-vm create v >/dev/null
  run -0 pv-disk attach v --image a.img -o id
  assert_output attached-v
  run -4 --separate-stderr pv-disk attach v --image b.img
  assert_equal "$(jq -r .error.code <<<"$output")" duplicate_name
}

@test "a disk of a running guest is not closed from under it" {
  pv-vm create v --no-agent | pv-disk attach --id vda --scratch 1M | pv-vm boot >/dev/null
  run -4 --separate-stderr pv-disk close vda
  assert_equal "$(jq -r .error.code <<<"$output")" wrong_state
  run -0 pv-disk info vda -o state
  assert_output attached
}

@test "a disk server killed under a guest gives the guest an error, and close cleans up" {
  guest_vm v
  plug vda --scratch 1M
  slay "$(pv-disk info vda -o pid)"
  run -0 pv-disk list -o state
  assert_output dead
  run -4 --separate-stderr pv-fault add --disk vda eio_read
  assert_equal "$(jq -r .error.code <<<"$output")" server_dead
  run pv-vm run v --raw --timeout 30s -- dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct
  [ "$status" -ne 0 ]
  run -0 pv-vm info v -o state
  assert_output booted
  run -0 pv-vm close v -o state
}

@test "booting a VM whose disk server is dead says so before QEMU starts" {
  pv-vm create v | pv-disk attach --id vda --scratch 1M >/dev/null
  slay "$(pv-disk info vda -o pid)"
  run -4 --separate-stderr pv-vm boot v
  assert_equal "$(jq -r .error.code <<<"$output")" server_dead
}

@test "the same disk id in two VMs is told apart by VM/ID" {
  pv-vm create a | pv-disk attach --id vda --scratch 1M >/dev/null
  pv-vm create b | pv-disk attach --id vda --scratch 2M >/dev/null
  run -2 --separate-stderr pv-disk info vda
  assert_equal "$(jq -c .error.valid <<<"$output")" '["a/vda","b/vda"]'
  run -0 pv-disk info b/vda -o size_bytes
  assert_output 2097152
}
