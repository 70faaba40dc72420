# SPDX-License-Identifier: MIT
# The layers that change how a disk behaves, seen by clients that know nothing of them.

load helper

setup() { pv_setup; }
teardown() { pv_teardown; }

kill_server() {
  local pid
  pid=$(pv-disk info "$1" -o pid </dev/null)
  kill -KILL "$pid"
  until_true ended "$pid"
}

# fill CHARACTER BYTES
fill() { head -c "$2" /dev/zero | tr '\0' "$1"; }

pattern() { qemu-io -r -f raw -c "read -P $1 $2 $3" "$4"; }

@test "cache: what was not flushed dies with the server, what was flushed does not" {
  truncate -s 4M t.img
  serve d --image t.img --layer cache
  ok qio d 'write -P 1 0 64k' 'flush' 'write -P 2 0 32k' 'read -P 2 0 32k' 'read -P 1 32k 32k'
  # qemu-io flushes when it closes: only what is written through our own socket stays unflushed.
  fill '\3' 65536 | pv-disk write d --offset 128k
  kill_server d
  ok pv-disk close d
  ok pattern 0 128k 64k t.img
  ok pattern 2 0 32k t.img
  serve d --image t.img --layer cache
  fill '\3' 65536 | pv-disk write d --offset 128k
  ok pv-disk flush d
  kill_server d
  ok pv-disk close d
  ok pattern 3 128k 64k t.img
}

@test "cache: a FUA write survives a kill without a flush; an orderly end loses nothing" {
  truncate -s 4M t.img
  serve d --image t.img --layer cache
  fill F 4096 | pv-disk write d --offset 0 --fua
  fill U 4096 | pv-disk write d --offset 4k
  kill_server d
  ok pv-disk close d
  assert_equal "$(head -c 1 t.img)" F
  ok pattern 0 4k 4k t.img
  serve d --image t.img --layer cache
  fill U 4096 | pv-disk write d --offset 4k
  ok pattern 0 4k 4k t.img
  ok pv-disk close d
  ok pattern 85 4k 4k t.img
}

@test "cache: the map shows what is held, and a file system on it is whole" {
  truncate -s 64M t.img
  serve d --image t.img --layer cache:size=1M
  fill U 65536 | pv-disk write d --offset 1M
  ok nbdinfo --map --totals "$(uri d)"
  assert_output --regexp '65536 +0\.[0-9]% +0 data'
  mkfs.ext4 -q -F fs.img 32M
  cp "$BATS_TEST_FILENAME" file
  debugfs -w -R 'write file file' fs.img 2>/dev/null
  ok nbdcopy fs.img "$(uri d)"
  ok nbdcopy "$(uri d)" back.img
  truncate -s 32M back.img
  ok cmp fs.img back.img
  ok pv-disk close d
  truncate -s 32M t.img
  run e2fsck -fn t.img
  assert_success
}

@test "cache: fio verifies what it wrote through a cache too small for it" {
  serve d --memory 32M --layer cache:size=256K --layer delay:for=200us
  run fio --name=v --ioengine=nbd --uri="$(uri d)" --rw=randrw --bsrange=512-128k --blockalign=512 \
    --iodepth=16 --size=16M --io_size=16M --verify=crc32c --fsync=50 --randrepeat=0 --minimal
  assert_success
}

@test "cache: a full disk below is reported by the flush, and by a write that needs the room" {
  serve d --memory 4M --layer cache:size=64K --layer fault
  pv-fault add --disk d error --op write --errno ENOSPC </dev/null >/dev/null
  for at in 0 16k 32k 48k; do fill '\3' 16384 | pv-disk write d --offset $at >/dev/null; done
  expect_error io 4 pv-disk flush d
  run --separate-stderr pv-disk write d --offset 1M --from <(fill x 512)
  assert_equal "$status" 4
  has '.error.errno == "ENOSPC"'
  pv-fault clear --disk d </dev/null >/dev/null
  ok pv-disk flush d
  ok qio d 'read -P 3 0 64k'
}

@test "crypt: the image is what is behind the header of a LUKS volume, both ways" {
  command -v cryptsetup >/dev/null || skip 'no cryptsetup'
  printf passphrase >pass
  local opts=driver=luks,key-secret=s,file.filename=t.luks secret=secret,id=s,file=pass offset
  luks_img create -q -f luks --object $secret -o key-secret=s,cipher-alg=aes-256,cipher-mode=xts \
    -o ivgen-alg=plain64,iter-time=10 t.luks 4M
  random_file plain 4194304
  qemu-img convert -n -f raw --object $secret --target-image-opts plain $opts
  cryptsetup luksDump --dump-volume-key --batch-mode --key-file pass --volume-key-file key t.luks \
    >/dev/null
  assert_equal "$(stat -c %s key)" 64
  offset=$(cryptsetup luksDump t.luks | awk '/^Payload offset:/ { print $3 }')
  dd if=t.luks of=payload bs=512 skip="$offset" status=none
  serve d --image payload --format raw --layer crypt:key-file=key
  ok nbdcopy "$(uri d)" got
  ok cmp plain got
  random_file other 1000448
  ok nbdcopy other "$(uri d)"
  ok qio d 'write -z 2M 64k'
  ok pv-disk close d
  dd if=payload of=t.luks bs=512 seek="$offset" conv=notrunc status=none
  dd if=other of=plain conv=notrunc status=none
  dd if=/dev/zero of=plain bs=64k seek=32 count=1 conv=notrunc status=none
  ok qemu-img convert --object $secret --image-opts $opts -O raw decrypted
  ok cmp plain decrypted
}

@test "crypt: the client sees data everywhere, and no zeroes after a discard" {
  random_file key 64
  serve d --scratch 4M --layer crypt:key-file=key
  ok nbdinfo --map --totals "$(uri d)"
  assert_output --regexp '4194304 +100\.0% +0 data'
  ok qio d 'write -P 1 0 64k' 'discard 0 64k'
  run qio d 'read -P 0 0 64k'
  assert_output --partial 'Pattern verification failed'
  ok pv-disk info d
  has '.disk.discard == "unspecified"'
  serve e --scratch 4M --layer crypt:key-file=key,discard=off
  ok nbdinfo "$(uri e)"
  assert_output --partial 'can_trim: false'
  expect_error invalid 4 pv-disk serve f --scratch 4M --layer crypt:key-file=/etc/hostname
}

@test "throttle: fio gets the rate that was set, and another one after tune" {
  serve d --memory 16M --layer throttle:iops=200
  rate() {
    fio --name=r --ioengine=nbd --uri="$(uri d)" --rw="$1" --bs="$2" --iodepth=8 --size=16M \
      --time_based --runtime=2 --output-format=json --output=fio.json >/dev/null
    jq ".jobs[0].$3" fio.json
  }
  # between LOW HIGH RATE…: never more, and as much at least once; a machine may have been busy.
  between() {
    local low=$1 high=$2 got _
    shift 2
    for _ in {1..5}; do
      got=$(rate "$@")
      jq -ne "$got < $high" >/dev/null || fail "$got a second, more than $high"
      if jq -ne "$got > $low" >/dev/null; then return; fi
    done
    fail "$got a second, less than $low"
  }
  between 150 260 randread 4k read.iops
  ok pv-disk tune d throttle:iops=0,bps-write=4M
  has '.tuned.throttle == {"bps-write": 4194304, "burst_ms": 100, "waiting": 0}'
  between 3000000 5500000 write 64k write.bw_bytes
}

@test "delay: tune wakes what waits, and says what it cannot do" {
  # Longer than the write would wait for it.
  serve d --memory 1M --layer delay:ms=600000,ops=write
  fill x 512 | pv-disk write d --sector 0 >written &
  until_true in_flight d
  ok pv-disk tune d delay:ms=0
  wait $!
  ok qio d 'read -P 120 0 512'
  expect_error unsupported 4 pv-disk tune d cache:size=1M
  assert_equal "$(jq -r .error.message <<<"$output")" \
    "disk 'd' has no layer 'cache' that can change while it is served"
  expect_error usage 2 pv-disk tune d delay:size=1
  expect_error usage 2 pv-disk tune d delay:ms=x
  expect_error usage 2 pv-disk tune d delay
  expect_error usage 2 pv-disk tune d
  ok bash -c 'pv-disk info d </dev/null | pv-disk tune delay:ms=3'
  has '.tuned.delay.delay_ms == 3'
}

@test "fua: a client sees that it is not there, and flushes instead" {
  truncate -s 4M t.img
  serve d --image t.img --layer fua:mode=ignored --layer cache
  ok nbdinfo "$(uri d)"
  assert_output --partial 'can_fua: false'
  fill F 4096 | pv-disk write d --offset 0 --fua
  ok qio d 'write -f -P 7 64k 4k'
  kill_server d
  ok pv-disk close d
  ok pattern 7 64k 4k t.img
}
