#!/usr/bin/env bats
# What a guest sees of a disk: its size while it changes, its sectors, its discard. One VM
# for the file, with other disks for each test.

load helper
load helper_shared
teardown() { unplug_all; }

guest() { pv-vm run v --raw --timeout 120s -- sh -c "$1"; }

# rows D21, D22
@test "the guest sees a disk grow and shrink, and says so in its log" {
  truncate -s 16M t.img
  plug grown --image t.img --sector-size 4096
  pv-disk wait-resize grown --from 16M --timeout 20s -o size_bytes >waited &
  run -0 pv-disk resize grown 32M
  has '.disk | .size_bytes == 33554432 and .guest_bytes == 33554432'
  wait
  assert_equal "$(cat waited)" 33554432
  run -0 guest 'cat /sys/block/vda/size; dmesg | grep "new size" | tail -1'
  assert_line --index 0 65536
  assert_line --index 1 --partial '[vda] new size: 8192 4096-byte logical blocks'
  guest 'seq 1 3000 | dd of=/dev/vda bs=4k seek=8000 conv=notrunc,fsync 2>/dev/null' >/dev/null
  cmp -n 4096 <(seq 1 3000) <(tail -c +32768001 t.img)
  run -0 pv-disk resize grown 8M --shrink -o guest_bytes
  assert_output 8388608
  run -0 guest 'cat /sys/block/vda/size'
  assert_output 16384
  # The same size again is told again, and changes nothing.
  ok pv-disk resize grown 8M
  expect_error invalid 4 pv-disk resize grown 4M
  run -0 guest 'dd if=/dev/vda of=/dev/null bs=64k iflag=direct && dmesg | grep -ci "i/o error"; true'
  assert_line 0
  assert_equal "$(jq -r 'select(.event == "disk_resized" and .data.disk == "grown").data.size_bytes' \
    "$(dirname "$(pv-vm info v -o console)")/events.jsonl" | tr '\n' ' ')" '33554432 8388608 8388608 '
}

@test "resizes under the load of dd in the guest give it no error and lose nothing" {
  truncate -s 16M t.img
  plug vda --image t.img
  guest 'i=0; while { [ ! -e /tmp/stop ] || [ $i -le 5 ]; } && [ $i -lt 2000 ]; do
      seq $i $((i+9000)) >/tmp/data
      dd if=/tmp/data of=/dev/vda bs=4k conv=notrunc,fsync 2>/dev/null || { echo write $i; break; }
      echo 1 >/proc/sys/vm/drop_caches
      cmp -n $(wc -c </tmp/data) /tmp/data /dev/vda || { echo differs $i; break; }
      i=$((i+1)); done
    dmesg | grep -i "i/o error"; echo done' >guest.out &
  asked() { [ "$(pv-disk stats vda -o stats.flush.completed)" -gt 0 ]; }
  until_true asked
  local n
  for n in {1..25}; do
    run -0 pv-disk resize vda $((16 + n % 5))M --shrink -o guest_bytes
    assert_output $(((16 + n % 5) << 20))
  done
  guest 'touch /tmp/stop' >/dev/null
  wait
  assert_equal "$(cat guest.out)" 'done'
}

@test "the guest is told sectors, granularity and serial as they are; fua and flush stay" {
  plug a --memory 4M --sector-size 4k --uuid 11112222-3333-4444-5555-666677778888
  plug b --memory 4M --physical-sector-size 4k
  run -0 guest 'cd /sys/block; for d in vda vdb; do cd $d/queue
    echo $(cat ../serial) $(cat logical_block_size physical_block_size discard_granularity write_cache)
    [ $(cat discard_max_bytes) -gt 0 ] && echo discards; cd ../..; done'
  assert_line --index 0 '11112222333344445555 4096 4096 4096 write back'
  assert_line --index 1 discards
  # A newer kernel discards whole physical sectors.
  assert_line --index 2 --regexp '^b 512 4096 (512|4096) write back$'
  assert_line --index 3 discards
}
