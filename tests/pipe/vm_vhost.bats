#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a disk that comes into a running guest by vhost-user is another one than over NBD:
# in what the guest reads and writes, in what it is told of the disk, or in its faults. One VM for
# the file, booted here: the memory of one from a snapshot is private.

load helper
load helper_shared
setup_file() { shared_vm --cpus 2; }
teardown() { unplug_all; }

guest() { pv-vm run v --raw --timeout 60s -- sh -c "$1" </dev/null; }
vplug() { plug "$@" --transport vhost-user; }

@test "attach plugs it in by vhost-user, and NBD is served beside it" {
  random_file t.img 1048576
  run -0 pv-disk attach v --id hot --image t.img --transport vhost-user
  has '.disk | .transport == "vhost-user" and .state == "attached" and .guest_path == "/dev/vda"
    and (.vhost_socket | endswith("/vhost.sock"))'
  [ -S "$(jq -r .disk.vhost_socket <<<"$output")" ]
  run -0 guest 'md5sum </dev/vda; cat /sys/block/vda/device/modalias; ls /sys/block/vda/mq'
  assert_line --index 0 --partial "$(md5sum <t.img | cut -c1-32)"
  assert_line --index 2 0
  assert_line --index 3 1
  assert_equal "$(pv-disk info hot -o connections </dev/null)" 1
  ok nbdinfo --size "$(pv-disk info hot -o uri </dev/null)"
  assert_output 1048576
  run -0 pv-disk detach hot
  has '.disk | .state == "detached" and .guest_released'
  run -0 guest 'ls /sys/block | grep -c vd || true'
  assert_output 0
  # The slot and its socket are free again, as often as one likes.
  for _ in 1 2 3; do
    vplug hot --image t.img
    ok pv-disk detach hot
  done
}

@test "what a guest writes and discards is in the image, byte by byte" {
  random_file t.img 8M
  cp t.img want.img
  vplug vda --image t.img
  seq 1 200000 >bytes
  pv-vm put v bytes /tmp/bytes </dev/null >/dev/null
  guest 'dd if=/tmp/bytes of=/dev/vda bs=4k conv=notrunc,fsync 2>/dev/null
    dd if=/tmp/bytes of=/dev/vda bs=512 count=3 seek=4097 oflag=direct 2>/dev/null
    blkdiscard -o 4194304 -l 1048576 /dev/vda'
  dd if=bytes of=want.img conv=notrunc status=none
  dd if=bytes of=want.img bs=512 count=3 seek=4097 conv=notrunc status=none
  dd if=/dev/zero of=want.img bs=1M count=1 seek=4 conv=notrunc status=none
  assert_equal "$(guest 'echo 3 >/proc/sys/vm/drop_caches; sha256sum </dev/vda')" \
    "$(sha256sum <want.img)"
  run -0 pv-disk stats vda
  has '.disk.stats | .write.completed > 0 and .flush.completed > 0
    and .discard.completed > 0 and .io_errors == 0 and .in_flight == 0'
  ok pv-disk detach vda
  cmp t.img want.img
}

@test "a file system lives on it: ext4 is made, filled by several at once, checked and trimmed" {
  truncate -s 32M t.img
  mke2fs -q -t ext4 -F t.img
  vplug vda --image t.img
  guest 'mkdir -p /mnt && mount -o dioread_lock /dev/vda /mnt &&
    fallocate -l 32768 /mnt/f5 && seq 100 | dd of=/mnt/f5 bs=4k seek=3 conv=notrunc,fsync 2>/dev/null
    for i in 1 2 3 4; do
      (for j in 1 2 3; do seq $i$j 20000 >/mnt/f$i; sync; done) & done; wait
    rm /mnt/f1; seq 100 200 >/mnt/f6; (cd /mnt && md5sum f?) >/tmp/sums; umount /mnt
    mount /dev/vda /mnt && (cd /mnt && md5sum -c /tmp/sums) && fstrim /mnt; umount /mnt' >out
  assert_equal "$(grep -c ': OK' out)" 5
  run -0 guest 'dmesg | grep -i -e "i/o error" -e "ext4-fs error"; true'
  assert_output ''
  run -0 pv-disk stats vda
  has '.disk.stats | .discard.completed > 0 and .zero.completed > 0'
  ok pv-disk detach vda
  e2fsck -fn t.img
}

@test "the guest is told serial, sectors, write-protection and discard as the server has them" {
  truncate -s 4M a.img
  vplug a --memory 4M --sector-size 4k --uuid 11112222-3333-4444-5555-666677778888
  vplug b --image a.img --physical-sector-size 4k --read-only
  run -0 guest 'cd /sys/block; for d in vda vdb; do
    echo $(cat $d/serial) $(cat $d/size $d/ro) $(cd $d/queue; cat logical_block_size physical_block_size write_cache)
    [ $(cat $d/queue/discard_max_bytes) -gt 0 ] && echo discards || echo no discards; done'
  assert_line --index 0 '11112222333344445555 8192 0 4096 4096 write back'
  assert_line --index 1 discards
  assert_line --index 2 'b 8192 1 512 4096 write back'
  assert_line --index 3 'no discards'
  run guest 'echo x | dd of=/dev/vdb oflag=sync 2>&1'
  [ "$status" -ne 0 ]
}

@test "fault rules reach the guest, and can ask for what came by vhost-user" {
  vplug vda --memory 4M
  pv-fault add --disk vda eio_read </dev/null >/dev/null
  run guest 'dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct 2>&1'
  [ "$status" -ne 0 ]
  assert_output --partial 'Input/output error'
  run -0 pv-fault journal --disk vda
  has '.event.front == "vhost-user" and .event.requested == "EIO"' \
    "$(grep -m 1 vhost-user <<<"$output")"
  pv-fault clear --disk vda </dev/null >/dev/null
  guest 'dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null'
  pv-fault add --disk vda --rule \
    '{"match":{"op":["read"],"front":"vhost-user"},"do":{"kind":"error","errno":"EIO"}}' </dev/null >/dev/null
  ok pv-disk read vda --count 1
  run guest 'dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null'
  [ "$status" -ne 0 ]
}

@test "the guest sees it grow and shrink, also after it stood still" {
  truncate -s 16M t.img
  vplug grown --image t.img
  guest 'dmesg -c >/dev/null'
  run -0 pv-disk resize grown 32M
  has '.disk | .size_bytes == 33554432 and .guest_bytes == 33554432'
  guest 'seq 1 3000 | dd of=/dev/vda bs=4k seek=8000 conv=notrunc,fsync 2>/dev/null'
  cmp -n 4096 <(seq 1 3000) <(tail -c +32768001 t.img)
  ok pv-disk resize grown 8M --shrink -o guest_bytes
  assert_output 8388608
  pv-vm pause v </dev/null >/dev/null
  ok pv-disk resize grown 24M -o guest_bytes
  assert_output null
  pv-vm resume v </dev/null >/dev/null
  run -0 guest 'for i in $(seq 500); do
    [ $(cat /sys/block/vda/size) = 49152 ] && exit; sleep 0.02; done; exit 1'
  run -0 guest 'dd if=/dev/vda of=/dev/null bs=64k iflag=direct && dmesg | grep -ci "i/o error"; true'
  assert_line 0
}

@test "a disk that is paused with its VM goes on, and so does one whose VM was reset" {
  random_file t.img 4M
  vplug vda --image t.img
  pv-vm pause v </dev/null >/dev/null
  ok pv-disk read vda --count 1
  pv-vm resume v </dev/null >/dev/null
  assert_equal "$(guest 'sha256sum </dev/vda')" "$(sha256sum <t.img)"
  # See boot_smp.
  pv-vm reset v --timeout 30s >/dev/null 2>&1 || ok pv-vm reset v
  assert_equal "$(guest 'sha256sum </dev/vda')" "$(sha256sum <t.img)"
}

@test "a mismatch of a mirror stops the VM, and a stalled request goes on when it is let go" {
  random_file r.img 1M
  { head -c 5000 r.img; printf X; tail -c +5002 r.img; } >t.img
  # One byte is X already in one of 256.
  cmp -s r.img t.img && { printf Y | dd of=t.img bs=1 seek=5000 conv=notrunc status=none; }
  pv-verify mirror --test t.img --reference r.img --on-mismatch stop_vm --assume-identical </dev/null |
    pv-disk attach v --id m --transport vhost-user >/dev/null
  guest 'dd if=/dev/vda of=/dev/null bs=4k iflag=direct 2>/dev/null' &
  local reader=$!
  paused() { [ "$(pv-vm info v -o state </dev/null)" = paused ]; }
  until_true paused
  run pv-verify report --disk v/m
  has '.report | .verdict == "damaged" and .first.request.front == "vhost-user"
    and .ranges == [{"offset_bytes":5000,"length_bytes":1,"mismatches":1}]'
  pv-vm resume v </dev/null >/dev/null
  wait "$reader"
  vplug h --memory 1M
  pv-fault add --disk v/h --rule '{"match":{"op":["read"]},"when":{"times":1},"do":{"kind":"stall"}}' \
    </dev/null >/dev/null
  guest '(dd if=/dev/vdb of=/dev/null bs=4k count=1 iflag=direct; echo $? >/tmp/status) >/dev/null 2>&1 &'
  held() { [ "$(pv-fault held --disk v/h -o op </dev/null)" = read ]; }
  until_true held
  # QEMU waits for it when it is to stop, and stops then.
  expect_error timeout 6 pv-vm pause v --timeout 500ms
  ok pv-fault release --disk v/h
  until_true paused
  pv-vm resume v </dev/null >/dev/null
  assert_equal "$(guest 'for i in $(seq 500); do [ -s /tmp/status ] && break; sleep 0.02; done
    cat /tmp/status')" 0
}

@test "auto is vhost-user where memory is shared, but not for a CD drive nor without a VM" {
  ok pv-disk attach v --id a --memory 1M --transport auto -o transport
  assert_output vhost-user
  truncate -s 1M cd.iso
  ok pv-disk attach v --id cd --cdrom --image cd.iso --transport auto -o transport
  assert_output nbd
  ok pv-disk serve s --memory 1M --transport auto -o transport
  assert_output nbd
  pv-disk close s </dev/null >/dev/null
  ok pv-disk serve s --memory 1M --transport vhost-user
  has '.disk | .transport == "vhost-user" and .state == "serving" and .connections == 0'
  pv-disk close s </dev/null >/dev/null
  expect_error usage 2 pv-disk attach v --memory 1M --transport usb
  expect_error usage 2 pv-disk attach v --cdrom --image cd.iso --transport vhost-user
}

@test "a server that says nothing is ended in time: QEMU's monitor is free again" {
  # Takes the place of a disk's server, as the supervisor is asked by pv-disk attach.
  python3 - "$PWD/mute.sock" <<'PY' >mute.json &
import json, os, socket, sys, time
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen()
ticks = int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[19])
print(json.dumps({"op": "plug", "timeout_ms": 2000, "socket": "",
    "disk": {"id": "mute", "transport": "vhost-user", "vhost_socket": sys.argv[1],
        "pid": os.getpid(), "start_ticks": ticks}}), flush=True)
peer, _ = s.accept()
time.sleep(600)
PY
  until_true test -s mute.json
  ok python3 - "$(dirname "$(pv-vm info v -o qmp </dev/null)")/sup.sock" mute.json <<'PY'
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(30)
s.connect(sys.argv[1])
s.sendall(open(sys.argv[2], "rb").read())
print(s.makefile().readline())
PY
  has '.error | .code == "timeout" and (.message | contains("does not answer"))'
  # Nothing of it is left: the VM works, and the slot too.
  guest true
  vplug vda --memory 1M
  guest 'dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null'
}
