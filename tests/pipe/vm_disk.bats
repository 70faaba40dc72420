#!/usr/bin/env bats
# Disks in a running guest: order, hot plug, detach, and what happens when a server goes away.

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

# row A1: attach to a running guest gives it a disk that it can use
@test "a disk attached to a running guest is there when attach returns, and detach takes it out" {
  pv-vm create v | pv-vm boot >/dev/null
  head -c 1048576 /dev/urandom >t.img
  run -0 pv-disk attach v --id hot --image t.img -o guest_path
  assert_output /dev/vda
  run -0 pv-vm run v --raw -- sh -c 'md5sum </dev/vda'
  assert_output --partial "$(md5sum <t.img | cut -c1-32)"
  run -0 pv-disk detach hot
  assert_equal "$(jq -r '.disk | "\(.state) \(.guest_released)"' <<<"$output")" "detached true"
  run -0 pv-vm run v --raw -- sh -c 'ls /sys/block | grep -c vd || true'
  assert_output 0
  # row A30: the handle stays dead, a new attach with the same id is a new disk
  run -4 --separate-stderr pv-disk read hot
  assert_equal "$(jq -r .error.code <<<"$output")" detached
  run -0 pv-disk attach v --id hot --image t.img -o state
  assert_output attached
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
  pv-vm create v | pv-disk attach --id vda --scratch 1M | pv-vm boot >/dev/null
  run -4 --separate-stderr pv-disk close vda
  assert_equal "$(jq -r .error.code <<<"$output")" wrong_state
  run -0 pv-disk info vda -o state
  assert_output attached
}

@test "writes of the guest are in the image after sync, whatever its format" {
  qemu-img create -q -f qcow2 t.qcow2 8M
  pv-vm create v | pv-disk attach --id vda --image t.qcow2 | pv-vm boot >/dev/null
  pv-vm run v --raw -- sh -c 'seq 1 100000 | dd of=/dev/vda bs=64k conv=fsync 2>/dev/null'
  pv-vm close v >/dev/null
  run -0 qemu-img check -q t.qcow2
  qemu-img convert -f qcow2 -O raw t.qcow2 t.raw
  seq 1 100000 >want
  run -0 cmp -n "$(stat -c %s want)" want t.raw
}

@test "a disk server killed under a guest gives the guest an error, and close cleans up" {
  pv-vm create v | pv-disk attach --id vda --scratch 1M | pv-vm boot >/dev/null
  kill -KILL "$(pv-disk info vda -o pid)"
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
  kill -KILL "$(pv-disk info vda -o pid)"
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

@test "discard of the guest gives the space back to the image" {
  head -c 4M /dev/urandom >t.img
  pv-vm create v | pv-disk attach --id vda --image t.img | pv-vm boot >/dev/null
  pv-vm run v --raw -- blkdiscard /dev/vda
  pv-disk flush vda >/dev/null
  [ "$(stat -c %b t.img)" -lt 64 ]
}

@test "a guest is the host that its disk was attached for" {
  pv-vm create v |
    pv-disk attach --id vda --memory 1M --host-key guest --layer reserve | pv-vm boot >/dev/null
  pv-disk reserve register vda --host-key other --new-key 1 </dev/null >/dev/null
  pv-disk reserve reserve vda --host-key other --key 1 --type exclusive_access </dev/null >/dev/null
  run pv-vm run v --raw -- dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct
  [ "$status" -ne 0 ]
  pv-disk reserve register vda --host-key guest --new-key 2 </dev/null >/dev/null
  pv-disk reserve preempt vda --host-key guest --key 2 --new-key 1 --type exclusive_access \
    </dev/null >/dev/null
  pv-vm run v --raw -- dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct
}
