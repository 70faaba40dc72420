#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a VM with a vhost-user disk does not go on from its snapshot as it was: its disk is
# another, its memory is not the one that the disk's server works in, or a flush got lost.

load helper
load helper_snap

setup_file() {
  snap_file || return 0
  truncate -s 16M a.img
  mke2fs -q -t ext4 -F a.img
  truncate -s 4M c.img
  pv-vm create v --cpus 2 >/dev/null
  pv-disk attach v --id vda --image a.img --transport vhost-user </dev/null >/dev/null
  pv-disk attach v --id vdb --image c.img --layer cache --transport vhost-user </dev/null >/dev/null
  pv-disk attach v --id vdc --memory 1M </dev/null >/dev/null
  boot_smp v >/dev/null
  guest v 'mkdir -p /mnt/a; mount /dev/vda /mnt/a
    head -c 2000000 /dev/urandom >/mnt/a/file; sync; md5sum /mnt/a/file' >"$PV_T/sums"
  pv-disk attach v --id hot --memory 1M --transport vhost-user </dev/null >/dev/null
  guest v 'echo hot | dd of=/dev/vdd conv=fsync 2>/dev/null; echo late >/mnt/a/late'
  fill v vdb S 0 conv=fsync
  fill v vdb U 1 oflag=direct
  pv-fault add --disk v/hot --id two eio_read --times 2 </dev/null >/dev/null
  pv-disk stats v/vdb </dev/null >"$PV_T/before"
  pv-snap take v "$PV_SNAP" </dev/null >"$PV_T/taken"
  pv-disk stats v/vdb </dev/null >"$PV_T/after"
  guest v 'echo on >/mnt/a/on; sync; cat /mnt/a/on' >"$PV_T/on"
  pv-vm close v >/dev/null
}
setup() { snap_setup; }
teardown() { snap_teardown; }
teardown_file() { close_shared_vm; }

k_drop='echo 3 >/proc/sys/vm/drop_caches'

# fill VM DEVICE LETTER BLOCK DD_FLAG…, letter VM DEVICE BLOCK: 64 KiB of a letter.
fill() {
  guest "$1" "tr '\\0' $3 </dev/zero |
    dd of=/dev/$2 bs=64k count=1 seek=$4 iflag=fullblock ${*:5} 2>/dev/null"
}
letter() {
  guest "$1" "dd if=/dev/$2 bs=64k skip=$3 count=1 iflag=direct 2>/dev/null | head -c 1 | tr '\\0' ."
}
sums() { guest "$1" "sync; $k_drop; md5sum /mnt/a/file"; }
held() { jq '.disk.stats.layers.cache.held_bytes' "$1"; }

@test "taking one flushes no cache, and the VM goes on with its disks" {
  # If this fails, the VM that a snapshot is taken of loses its disks, or a cache is emptied by it.
  assert_equal "$(cat "$PV_T/on")" on
  has '.snap.paused_ms > 0 and .vm.state == "booted"' "$(cat "$PV_T/taken")"
  assert_equal "$(held "$PV_T/before")" 65536
  assert_equal "$(held "$PV_T/after")" 65536
}

@test "what was written is there, in a VM whose memory its servers can see" {
  # If this fails, a restored guest hangs at its first request, or reads other bytes than it wrote.
  ok pv-snap restore "$PV_SNAP" v
  has '.vm | .state == "booted" and .ram == "copied"'
  assert_equal "$(pv-disk list -o transport </dev/null | sort | uniq -c | xargs)" '1 nbd 3 vhost-user'
  assert_equal "$(sums v)" "$(cat "$PV_T/sums")"
  assert_equal "$(guest v 'cat /mnt/a/late; ls /mnt/a/on 2>/dev/null; true')" late
  assert_equal "$(letter v vdb 0)$(letter v vdb 1)$(letter v vdb 2)" SU.
  guest v 'echo new >/mnt/a/new; sync; dmesg | grep -i -e "ext4.*error" -e "i/o error"; true' >out
  assert_equal "$(cat out)" ''
  # Another can be plugged in, and one that is there taken out.
  ok pv-disk attach v --id more --memory 1M --transport auto -o transport
  assert_output vhost-user
  has '.disk.guest_released' "$(pv-disk detach v/more </dev/null)"
}

@test "what a cache held is lost by a power cut of the restored VM, what was flushed is not" {
  # If this fails, a snapshot makes durable what the guest has never flushed.
  restored "$PV_SNAP" v
  ok pv-fault power-cut v
  assert_equal "$(jq -c '.power_cut[] | select(.id == "vdb").dropped_bytes' <<<"$output")" 65536
  ok boot_smp v -o state
  assert_equal "$(letter v vdb 0)$(letter v vdb 1)" S.
}

@test "armed faults fire as they would have" {
  # If this fails, a rule begins anew in a restored VM, or is gone.
  restored "$PV_SNAP" v
  for status in 1 1 0; do
    run "-$status" guest v 'dd if=/dev/vdd of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null'
  done
  has '.rule | .id == "two" and .fired == 2 and .left == 0' "$(pv-fault list --disk v/hot </dev/null)"
}

@test "a snapshot of a restored VM has what was written since, two deep and as clones" {
  # If this fails, the memory that servers and guest share is not what a snapshot takes.
  restored "$PV_SNAP" one
  guest one 'echo 1 >/mnt/a/one; sync; echo unsynced >/mnt/a/two; echo ram >/tmp/mark'
  ok pv-snap take one ./s1
  guest one 'echo x >/mnt/a/never; sync'
  ok pv-snap clone ./s1 --count 2 --name 'c%' </dev/null
  for vm in c1 c2; do
    guest $vm "echo $vm >/mnt/a/own; sync"
    assert_equal "$(sums $vm)" "$(cat "$PV_T/sums")"
  done
  assert_equal "$(guest c1 "$k_drop; cat /tmp/mark /mnt/a/one /mnt/a/two /mnt/a/own; ls /mnt/a/never 2>&1 | grep -c No")" \
    $'ram\n1\nunsynced\nc1\n1'
  ok pv-snap take c2 ./s2 --stop
  restored ./s2 last
  assert_equal "$(guest last "$k_drop; cat /mnt/a/own")" c2
  assert_equal "$(sums last)" "$(cat "$PV_T/sums")"
}

@test "a VM that maps a snapshot's memory has no room for a vhost-user disk" {
  # If this fails, a server writes into the memory of a snapshot, or the guest hangs.
  guest_vm plain
  ok pv-snap take plain ./s --stop
  ok pv-snap restore ./s v
  has '.vm.ram == "mapped"'
  expect_error unsupported 4 pv-disk attach v --id a --memory 1M --transport vhost-user
  has '.error.message | contains("nbd")'
  ok pv-disk attach v --id a --memory 1M --transport auto -o transport
  assert_output nbd
  # Booted anew its memory is its own.
  pv-vm shutdown v </dev/null >/dev/null
  ok pv-vm boot v -o state
  ok pv-disk attach v --id b --memory 1M --transport vhost-user -o guest_path
  assert_output /dev/vdb
}
