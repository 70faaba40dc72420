#!/usr/bin/env bats
# The spine: a booted guest meets faults of a disk of ours, sees them, and recovers. One VM for the
# file, with other disks for each test.

load helper
load helper_shared
teardown() { unplug_all; }

# reference example "full fault-injection pattern" (rows A1 A10 A14 A19 A27), with the fault seen
# from the host and from inside the guest.
@test "guest and host see EIO, and reads recover after clear" {
  head -c 524288 /dev/zero >t.img
  plug vda --image t.img
  run -0 pv-disk read vda --sector 0 --count 1 -o length_bytes
  assert_output 512

  pv-fault add --disk vda eio_read >/dev/null
  run -4 --separate-stderr pv-disk read vda --sector 0 --count 1
  assert_equal "$(jq -r '.error | "\(.code) \(.errno) \(.injected) \(.rule)"' <<<"$output")" \
    "io EIO true eio_read"
  run -1 pv-vm run v --raw -- sh -c 'dd if=/dev/vda of=/dev/null bs=512 count=1 iflag=direct 2>&1'
  assert_output --partial "Input/output error"
  run -0 pv-vm console v
  assert_output --partial "I/O error, dev vda, sector 0"

  pv-fault clear --disk vda >/dev/null
  run -0 pv-disk read vda --sector 0 --count 1 -o length_bytes
  assert_output 512
  run -0 pv-vm run v --raw -- sh -c 'dd if=/dev/vda of=/dev/null bs=512 count=1 iflag=direct 2>&1'
  assert_output --partial "1+0 records in"
}

@test "the whole pipeline keeps every key and ends with the guest's exit status" {
  truncate -s 1M t.img
  run -1 bash -c 'set -o pipefail; pv-vm create cold | pv-disk attach --id vda --image t.img |
    pv-vm boot | pv-fault add eio_read | pv-vm run -- dd if=/dev/vda of=/dev/null count=1'
  assert_equal "$(command jq -c 'keys_unsorted' <<<"$output")" '["v","vm","disk","rule","run"]'
  assert_equal "$(jq -r .run.exit_status <<<"$output")" 1
  assert_equal "$(jq -r .disk.faults[0] <<<"$output")" eio_read
  pv-vm close cold >/dev/null
}

@test "a fault on a range is met only there, and an ext4 file comes back whole" {
  truncate -s 16M t.img
  mke2fs -q -t ext4 -b 4096 -F t.img
  plug vda --image t.img
  pv-vm run v --raw -- sh -c 'mount /dev/vda /mnt && seq 1 5000 >/mnt/a && seq 1 5000 >/mnt/b && sync'
  block=$(debugfs -R 'blocks /a' t.img 2>/dev/null | awk '{print $1}')
  pv-fault add --disk vda eio_read --range "$((block * 4096))+4096" >/dev/null
  drop='echo 3 >/proc/sys/vm/drop_caches'
  run -1 pv-vm run v --raw -- sh -c "$drop; cat /mnt/a >/dev/null"
  run -0 pv-vm run v --raw -- sh -c "$drop; cat /mnt/b | md5sum"
  assert_output --partial "$(seq 1 5000 | md5sum | cut -c1-32)"
  pv-fault clear --disk vda >/dev/null
  run -0 pv-vm run v --raw -- sh -c "$drop; cat /mnt/a | md5sum; umount /mnt"
  assert_output --partial "$(seq 1 5000 | md5sum | cut -c1-32)"
  pv-disk detach vda >/dev/null
  e2fsck -fn t.img
}

# row A21: 50 ms for each call, measured inside the guest
@test "slow delays every read that the guest makes" {
  truncate -s 1M t.img
  plug vda --image t.img
  pv-fault add --disk vda slow >/dev/null
  run -0 pv-vm run v --raw -- sh -c \
    'a=$(cut -d" " -f1 /proc/uptime); dd if=/dev/vda of=/dev/null bs=4k count=6 iflag=direct 2>/dev/null
     b=$(cut -d" " -f1 /proc/uptime); echo "$a $b" | awk "{print (\$2 - \$1 >= 0.29) ? \"slow\" : \"fast\"}"'
  assert_output slow
}

# row C28
@test "a delay that a guest would report as a hung task is told of" {
  truncate -s 1M t.img
  plug vda --image t.img
  pv-disk serve alone --memory 1M </dev/null >/dev/null
  run -0 --separate-stderr pv-fault add delay --delay 121s --disk vda --id long --op discard </dev/null
  assert_equal "${#stderr_lines[@]}" 1
  [[ $stderr == *"'long'"*"120 s"*"hung task"* ]]
  for flags in 'delay --delay 119s --disk vda' 'delay --delay 121s --disk alone'; do
    # shellcheck disable=SC2086
    run -0 --separate-stderr pv-fault add $flags --op discard </dev/null
    assert_equal "$stderr" ''
  done
}

@test "an error on flush reaches the guest's fsync, and only that" {
  truncate -s 1M t.img
  plug vda --image t.img
  pv-fault add --disk vda error --op flush --errno EIO >/dev/null
  run pv-vm run v --raw -- sh -c 'dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync 2>&1'
  [ "$status" -ne 0 ]
  assert_output --partial "Input/output error"
  run -0 pv-vm run v --raw -- sh -c 'dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct 2>&1'
}

# virtio-blk carries OK, IOERR and UNSUPP only: whatever is asked for, the guest sees EIO
@test "ENOSPC is delivered as NBD's ENOSPC, does not stop the VM, and is EIO in the guest" {
  truncate -s 1M t.img
  plug vda --image t.img
  pv-fault add --disk vda error --op write --errno ENOSPC >/dev/null
  run pv-vm run v --raw -- sh -c 'dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct 2>&1'
  assert_output --partial "error"
  run -0 pv-vm info v -o state
  assert_output booted
  run -0 pv-fault journal --disk vda
  assert_equal "$(head -n 1 <<<"$output" | jq -r '.event | "\(.requested) \(.delivered)"')" \
    "ENOSPC ENOSPC"
}

# row A33
@test "faults of one disk leave the other disks of the guest alone" {
  truncate -s 1M a.img b.img
  plug vda --image a.img
  plug vdb --image b.img
  pv-fault add --disk vda eio_read >/dev/null
  run -1 pv-vm run v --raw -- dd if=/dev/vda of=/dev/null count=1 iflag=direct
  run -0 pv-vm run v --raw -- dd if=/dev/vdb of=/dev/null count=1 iflag=direct
}

@test "a fault can be set while the guest's request sleeps" {
  truncate -s 1M t.img
  plug vda --image t.img
  pv-fault add --disk vda delay --id nap --delay 20s --op read >/dev/null
  pv-vm run v --raw -- dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct >out 2>&1 &
  reader=$!
  pv-fault wait nap --disk vda >/dev/null
  pv-fault add --disk vda eio_read >/dev/null
  pv-fault clear nap --disk vda >/dev/null
  status=0
  wait "$reader" || status=$?
  assert_equal "$status" 1
  run -0 pv-fault journal --disk vda
  assert_equal "$(jq -r 'select(.event.rule == "eio_read") | .event.phase' <<<"$output" | head -n 1)" \
    after_delay
}
