#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, the disks of a VM that goes on from a snapshot are not those of its instant: data
# is lost, newer data leaks in, or a fault rule or a volatile cache begins anew.

load helper
load helper_snap

# Three disks with ext4 and a file of their own, a slot whose disk was taken out, and a disk that was
# plugged in after it.
setup_file() {
  snap_file || return 0
  pv-vm create v >/dev/null
  for d in a b c; do
    truncate -s 16M "$d.img"
    mke2fs -q -t ext4 -F "$d.img"
    pv-disk attach v --id "vd$d" --image "$d.img" </dev/null >/dev/null
  done
  pv-vm boot v >/dev/null
  guest v 'for d in a b c; do mkdir -p /mnt/$d; mount /dev/vd$d /mnt/$d
    head -c 2000000 /dev/urandom >/mnt/$d/file; done; sync; md5sum /mnt/?/file' >"$PV_T/sums"
  pv-disk attach v --id gone --memory 1M </dev/null >/dev/null
  pv-disk attach v --id hot --memory 1M </dev/null >/dev/null
  guest v 'echo hot | dd of=/dev/vde conv=fsync 2>/dev/null'
  pv-disk detach v/gone </dev/null >/dev/null
  # Not synced: in the guest's memory only.
  guest v 'for d in a b c; do echo "late $d" >/mnt/$d/late; done'
  pv-snap take v "$PV_SNAP" --stop </dev/null >/dev/null
  sha256sum ./*.img >"$PV_T/images"
  pv-vm close v >/dev/null
}
setup() { snap_setup; }
teardown() { snap_teardown; }
teardown_file() { close_shared_vm; }

k_drop='echo 3 >/proc/sys/vm/drop_caches'

# sums VM: of the files, read from the disks and not from the guest's memory.
sums() { guest "$1" "sync; $k_drop; md5sum /mnt/?/file"; }

# letter VM DEVICE BLOCK: the first byte of 64 KiB as it is on the disk; '.' for zero.
letter() {
  guest "$1" "dd if=/dev/$2 bs=64k skip=$3 count=1 iflag=direct 2>/dev/null | head -c 1 | tr '\\0' ."
}

# fill VM DEVICE LETTER BLOCK [DD_FLAG…]
fill() {
  guest "$1" "tr '\\0' $3 </dev/zero |
    dd of=/dev/$2 bs=64k count=1 seek=$4 iflag=fullblock ${*:5} 2>/dev/null"
}

@test "what was written before is there on all disks, synced or not, what came later is not" {
  # If this fails, a restored guest reads other bytes from its disks than it wrote.
  restored "$PV_SNAP" v
  assert_equal "$(sums v)" "$(cat "$PV_T/sums")"
  assert_equal "$(guest v 'cat /mnt/?/late')" $'late a\nlate b\nlate c'
  guest v 'for d in a b c; do echo x >/mnt/$d/after; echo changed >/mnt/$d/file; done; sync'
  pv-vm close v >/dev/null
  restored "$PV_SNAP" v
  assert_equal "$(sums v)" "$(cat "$PV_T/sums")"
  run -1 guest v 'cat /mnt/?/after'
  run -0 guest v 'dmesg | grep -i -e "ext4.*error" -e "I/O error"; true'
  assert_output ''
  # and the images that the disks came from were not touched
  (cd "$PV_SHARED/w" && sha256sum --quiet -c "$PV_SHARED/images")
}

@test "a hot-plugged disk is in its slot, and the slot that was left is free" {
  # If this fails, a guest finds another disk behind a device than the one that it knows there.
  restored "$PV_SNAP" v
  assert_equal "$(guest v 'cd /sys/block; for d in vd?; do echo "$d $(cat $d/serial)"; done')" \
    $'vda vda\nvdb vdb\nvdc vdc\nvde hot'
  assert_equal "$(guest v "$k_drop; head -c 3 /dev/vde")" hot
  before=$(guest v 'readlink -f /sys/block/vde')
  run -0 pv-disk attach v --id new --memory 2M -o guest_path </dev/null
  new=$output
  assert_equal "$(guest v "cat /sys/block/${new#/dev/}/serial")" new
  # The free slot is the one between vdc's and vde's.
  run -0 guest v "readlink -f /sys/block/${new#/dev/}"
  [[ $output == */0000:00:04.3/* && $before == */0000:00:04.4/* ]]
  has '.disk.guest_released' "$(pv-disk detach v/hot </dev/null)"
  run -0 pv-disk attach v --id again --memory 1M -o state </dev/null
  assert_output attached
}

@test "a snapshot of what was restored from one, three deep, has all that was written on the way" {
  # If this fails, changes on top of a snapshot are lost in the next one.
  restored "$PV_SNAP" one
  guest one 'echo 1 >/mnt/a/one; sync; echo 1 >/mnt/b/one'
  ok pv-snap take one ./s1
  has ".snap.parent == \"$PV_SNAP\""
  guest one 'echo x >/mnt/a/never; sync'
  ok pv-snap clone ./s1 --name two </dev/null
  guest two1 'echo 2 >/mnt/b/two; rm /mnt/a/one; sync; echo 2 >/mnt/c/two'
  ok pv-snap take two1 ./s2
  restored ./s2 three
  guest three 'echo 3 >/mnt/c/three; sync'
  ok pv-snap take three ./s3 --stop
  restored ./s3 three
  assert_equal "$(sums three)" "$(cat "$PV_T/sums")"
  assert_equal "$(guest three "$k_drop; cd /mnt; echo ?/*")" \
    'a/file a/late a/lost+found b/file b/late b/lost+found b/one b/two c/file c/late c/lost+found c/three c/two'
  assert_equal "$(guest three 'cat /mnt/b/one /mnt/b/two /mnt/c/two /mnt/c/three' | tr -d '\n')" 1223
  # The first one goes on where it was.
  assert_equal "$(guest one 'cat /mnt/a/never')" x
  ok pv-snap check ./s3
}

@test "armed faults fire as they would have, and their journal goes on" {
  # If this fails, a fault of which two firings were left fires three times, or never.
  restored "$PV_SNAP" v
  ok pv-fault add --disk v/vda eio_read --id bad --range 15M+4k --after 2 --times 3
  # reads VM N: a letter for each, E for an error.
  reads() {
    guest "$1" "for i in $(seq -s ' ' "$2"); do
      dd if=/dev/vda bs=4k skip=3840 count=1 iflag=direct 2>/dev/null | wc -c | sed 's/^4096/r/; s/^0/E/'
      done" | tr -d '\n'
  }
  assert_equal "$(reads v 3)" rrE
  last=$(pv-fault journal --disk v/vda | jq -s 'last.summary.last')
  [ "$last" -ge 1 ]
  ok pv-snap take v ./s
  restored ./s w
  ok pv-fault list --disk w/vda
  has '.rule | .id == "bad" and .matched == 3 and .fired == 1 and .left == 2'
  assert_equal "$(reads w 3)" EEr
  # The other one has its own two left.
  assert_equal "$(reads v 3)" EEr
  # What happened before the snapshot is in the first one's journal only; the numbers go on.
  seqs() { pv-fault journal --disk "$1/vda" </dev/null | jq -c '.event.n // empty' | tr '\n' ' '; }
  assert_equal "$(seqs v)" "$(seq -s " " "$((last + 2))") "
  assert_equal "$(seqs w)" "$((last + 1)) $((last + 2)) "
}

@test "what a volatile cache held is there after a restore, and lost by a power cut then" {
  # If this fails, taking a snapshot flushes a disk that the guest has not flushed, or empties it.
  truncate -s 1M t.img
  restored "$PV_SNAP" v
  dev=$(pv-disk attach v --id cached --image t.img --layer cache -o guest_path </dev/null)
  dev=${dev#/dev/}
  fill v "$dev" F 0 oflag=direct conv=fsync
  fill v "$dev" U 1 oflag=direct
  ok pv-snap take v ./s
  for vm in v w; do
    [ $vm = v ] || restored ./s w
    assert_equal "$(letter $vm "$dev" 0)$(letter $vm "$dev" 1)" FU
    ok pv-fault power-cut $vm
    has '.power_cut | map(select(.id == "cached"))[0] | .dropped_bytes == 65536'
    pv-disk read $vm/cached --offset 0 --length 128k --raw </dev/null | tr '\0' . | fold -w 65536 |
      cut -c1 | tr -d '\n' | grep -qx 'F\.'
  done
}

@test "in place the content goes back into the images, which are served again" {
  # If this fails, --in-place leaves what came later in an image, or the guest writes elsewhere.
  cp --sparse=always "$PV_SHARED/w/a.img" mine.img
  pv-vm create v | pv-disk attach --id vda --image mine.img | pv-vm boot >/dev/null
  guest v 'mount /dev/vda /mnt; echo before >/mnt/f; sync'
  ok pv-snap take v ./s
  guest v 'echo later >/mnt/f; echo later >/mnt/g; umount /mnt'
  expect_error wrong_state 4 pv-snap restore ./s v --in-place
  pv-vm shutdown v >/dev/null
  ok pv-snap restore ./s v --in-place
  assert_equal "$(guest v "$k_drop; cat /mnt/f")" before
  run -1 guest v 'cat /mnt/g'
  assert_equal "$(pv-disk info v/vda -o source.path </dev/null)" "$PWD/mine.img"
  guest v 'echo second >/mnt/h; umount /mnt'
  pv-vm close v >/dev/null
  e2fsck -fn mine.img
  assert_equal "$(debugfs -R 'cat /f' mine.img 2>/dev/null)$(debugfs -R 'cat /h' mine.img 2>/dev/null)" \
    beforesecond
}

@test "taken while the guest writes to three disks, the file systems of the snapshot are sound" {
  # If this fails, a snapshot has a disk whose parts are of different instants.
  restored "$PV_SNAP" v
  guest v 'for d in a b c; do
    (while :; do i=$((i + 1)); dd if=/dev/urandom of=/mnt/$d/w$((i % 7)) bs=16k count=$((i % 9 + 1)) conv=fsync
      [ $((i % 3)) = 0 ] && rm /mnt/$d/w$((i % 5)); sync; done >/dev/null 2>&1 </dev/null & echo $! >>/tmp/writers)
    done'
  written() { pv-disk stats v/vdc -o stats.write.completed </dev/null; }
  for round in 1 2 3; do
    start=$(written)
    busy() { [ "$(written)" -gt $((start + 20)) ]; }
    until_true busy
    ok pv-snap take v "./s$round"
  done
  restored ./s3 w
  guest w 'kill -9 $(cat /tmp/writers); for d in a b c; do
    for try in $(seq 100); do umount /mnt/$d 2>/dev/null && break; sleep 0.1; done; done'
  for d in a b c; do
    qemu-img convert -f raw -O raw "$(uri w/vd$d)" "$d.raw"
    run -0 e2fsck -fn "$d.raw"
  done
  # A crash at the instant: the journal puts it right, and nothing else has to be.
  for round in 1 2 3; do
    ok pv-snap clone "./s$round" --name "c$round-%" --paused
    for d in a b c; do
      qemu-img convert -f raw -O raw "$(uri c$round-1/vd$d)" "$d.raw"
      run e2fsck -fp "$d.raw"
      [ "$status" -le 1 ] || { echo "round $round, disk $d: $output"; return 1; }
      run -0 e2fsck -fn "$d.raw"
    done
    pv-vm close "c$round-1" >/dev/null
  done
}
