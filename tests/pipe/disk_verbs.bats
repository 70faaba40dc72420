#!/usr/bin/env bats
# map, io, resize and wait-resize of a disk without a VM, and moving data in bulk; seen by other
# NBD clients where one can see it.

load helper

setup() { pv_setup; }
teardown() { pv_teardown; }

# ours ID: the map as "offset length data|zero|hole", from ours; theirs: the same from nbdinfo.
ours() {
  pv-disk map "$1" </dev/null | jq -r 'select(.extent).extent |
    "\(.offset_bytes) \(.length_bytes) \(.state)"'
}
theirs() {
  nbdinfo --map "$(uri "$1")" |
    awk '{print $1, $2, $3 == 0 ? "allocated" : $3 == 2 ? "zero" : "hole"}'
}

@test "map says what nbdinfo and qemu-img say" {
  truncate -s 8M t.img
  dd if=/dev/urandom of=t.img bs=64k count=3 seek=5 conv=notrunc status=none
  dd if=/dev/urandom of=t.img bs=64k count=1 seek=100 conv=notrunc status=none
  serve t --image t.img
  ours t >ours
  theirs t >theirs
  diff ours theirs
  [ "$(wc -l <ours)" -eq 5 ]
  qemu-img map -f raw --output=json "$(uri t)" |
    jq -r '.[] | "\(.start) \(.length) \(if .data then "allocated" else "hole" end)"' >qemu
  diff ours qemu
  ok pv-disk map t
  has '.summary == {extents: 5, allocated_bytes: 262144, zero_bytes: 0, hole_bytes: 8126464}'
}

@test "map lists every extent of a disk that has more than an answer holds" {
  # 5000 islands, so 10000 extents; a server's answer has 4096.
  truncate -s 80M t.img
  seq 0 4999 | awk '{print "write " $1 * 16384 " 4096"}' | qemu-io -f raw t.img >/dev/null
  serve t --image t.img
  ours t >ours
  [ "$(wc -l <ours)" -eq 10000 ]
  theirs t >theirs
  diff ours theirs
}

@test "map of a range, of a document's disk, and past the end" {
  serve t --memory 1M
  run -0 bash -c 'pv-disk info t | pv-disk map --offset 64k --length 4k'
  has '.summary.hole_bytes == 4096'
  expect_error out_of_range 4 pv-disk map t --offset 1M --length 4k
  expect_error invalid 4 pv-disk map t --offset 1 --length 4k
  pv-disk write t --sector 8 --from /etc/hostname >/dev/null
  run -0 pv-disk map t --text
  assert_line --index 0 --regexp '^offset_bytes +length_bytes +state +reads_zeroes'
}

@test "io runs every operation and gives the results in order" {
  serve t --scratch 1M
  cat >ops <<'EOF'
{"op":"write","offset_bytes":0,"pattern":"0xab","length_bytes":4096,"id":"first"}
{"op":"write","offset_bytes":4096,"b64":"aGVsbG8=","fua":true}

{"op":"read","offset_bytes":0,"length_bytes":512,"expect":{"pattern":171}}
{"op":"read","offset_bytes":4096,"length_bytes":512,"data":false}
{"op":"flush","id":{"any":["thing"]}}
{"op":"zero","offset_bytes":0,"length_bytes":512}
{"op":"discard","offset_bytes":0,"length_bytes":512}
{"op":"map","offset_bytes":0,"length_bytes":8192}
{"op":"read","offset_bytes":1048576,"length_bytes":512,"expect":{"code":"out_of_range"}}
EOF
  for n in 1 16; do
    ok pv-disk io t --parallel "$n" <ops
    assert_equal "$(jq -c 'select(.io).io.line' <<<"$output" | tr '\n' ' ')" '1 2 4 5 6 7 8 9 10 '
    has '.summary | .operations == 9 and .errors == 1 and .failed == 0 and .written_bytes == 4101'
    assert_equal "$(jq -c 'select(.io.id).io.id' <<<"$output" | head -2 | tr '\n' ' ')" \
      '"first" {"any":["thing"]} '
    assert_equal "$(jq -r 'select(.io.line == 5).io | has("b64")' <<<"$output")" false
  done
  run -0 qio t 'read -P 0xab 512 3584'
  refute_output --partial 'verification failed'
}

@test "io: an injected error is a result, expected or not" {
  serve t --memory 1M
  pv-fault add --disk t eio_write >/dev/null
  line='{"op":"write","offset_bytes":0,"pattern":"1","length_bytes":512'
  run -0 pv-disk io t <<<"$line,\"expect\":{\"errno\":\"EIO\"}}"
  has '.summary.failed == 0 and .summary.errors == 1'
  run -4 --separate-stderr pv-disk io t <<<"$line}"
  assert_equal "$(jq -c 'select(.io).io | [.ok, .error.rule]' <<<"$output")" '[false,"eio_write"]'
  has '.summary.failed == 1'
  # What was expected to fail, and did not.
  pv-fault clear --disk t >/dev/null
  run -4 --separate-stderr pv-disk io t <<<"$line,\"expect\":{\"errno\":\"EIO\"}}"
  has '.summary.failed == 1 and .summary.errors == 0'
}

@test "io: a slow operation is waited for alone, or overtaken with --parallel; the order stays" {
  serve t --memory 1M
  pv-fault add --disk t stall --op read --sector 0+1 --id first >/dev/null
  { echo '{"op":"read","offset_bytes":0,"length_bytes":512}'
    for i in 1 2 3; do echo '{"op":"read","offset_bytes":4096,"length_bytes":512}'; done; } >ops
  # One that waits for the first ends only after it.
  pv-disk io t <ops >alone &
  pv-fault wait first --disk t >/dev/null
  pv-disk io t --parallel 8 <ops >out &
  pv-fault wait first --disk t --hits 2 >/dev/null
  overtaken() { [ "$(pv-disk stats t -o stats.read.completed)" = 3 ]; }
  until_true overtaken
  [ ! -s out ]
  pv-fault release --disk t >/dev/null
  wait
  for output in "$(<alone)" "$(<out)"; do
    assert_equal "$(jq -c 'select(.io) | .io.line' <<<"$output" | tr '\n' ' ')" '1 2 3 4 '
  done
}

@test "io answers each line at once, and a line in error names itself" {
  serve t --memory 1M
  mkfifo in out
  pv-disk io t <in >out &
  exec 8>in 9<out
  for i in 1 2 3; do
    echo '{"op":"flush"}' >&8
    read -r -t 10 answer <&9
    has ".io.line == $i and .io.ok" "$answer"
  done
  exec 8>&-
  read -r -t 10 answer <&9
  has '.summary.operations == 3' "$answer"
  wait
  flush='{"op":"flush"}'
  for bad in '{"op":"fluh"}' '{"op":"flush"' '{"op":"read","offset_bytes":0}' '[]' 'x' \
    '{"op":"read","ofset_bytes":0,"length_bytes":512}' \
    '{"op":"write","offset_bytes":0,"b64":"!!"}' '{"op":"write","offset_bytes":0}' \
    '{"op":"write","offset_bytes":0,"pattern":"0x100","length_bytes":512}' \
    '{"op":"read","offset_bytes":0,"length_bytes":17000000}' \
    '{"op":"flush","expect":{"errno":"EWHAT"}}' '{"op":"flush","op":"flush"}'; do
    run -3 --separate-stderr pv-disk io t <<<"$flush"$'\n'"$bad"
    has '.error.line == 2 and (.summary | not)'
    assert_equal "$(jq -c 'select(.io).io.ok' <<<"$output")" true
  done
  expect_error usage 2 pv-disk io t --parallel 0
  expect_error usage 2 pv-disk io
}

@test "io: the server dies in the middle: an error, no summary" {
  serve t --memory 1M
  pv-fault add --disk t delay --delay 60s >/dev/null
  pid=$(pv-disk info t -o pid)
  (until_true in_flight t; kill -KILL "$pid") &
  run -4 --separate-stderr pv-disk io t <<<'{"op":"read","offset_bytes":0,"length_bytes":512}'
  has '.error.code == "server_dead"'
  wait
}

@test "io: many large operations at a time arrive whole" {
  random_file want 33554432
  serve t --memory 32M
  for ((i = 0; i < 32; i++)); do
    printf '{"op":"write","offset_bytes":%d,"b64":"%s"}\n' $((i << 20)) \
      "$(dd if=want bs=1M skip=$i count=1 status=none | base64 -w0)"
  done >ops
  pv-disk io t --parallel 32 <ops >out
  has '.summary.written_bytes == 33554432' "$(tail -1 out)"
  nbdcopy "$(uri t)" got
  cmp want got
  for ((i = 0; i < 32; i++)); do
    printf '{"op":"read","offset_bytes":%d,"length_bytes":1048576}\n' $((i << 20))
  done | pv-disk io t --parallel 32 | jq -r 'select(.io).io.b64' | base64 -d >got
  cmp want got
}

@test "read --raw and write move much data whole, from a file, a pipe, and into the middle" {
  random_file want 50000000
  serve t --scratch 64M
  ok pv-disk write t --from want --offset 1000
  pv-disk read t --length 64M --raw >got
  cmp want <(tail -c +1001 got | head -c 50000000)
  pv-disk zero t --all >/dev/null
  head -c 50000000 want | pv-disk write t --offset 512 >/dev/null
  pv-disk write t --offset 512 <want >/dev/null
  cmp want <(nbdcopy "$(uri t)" - | tail -c +513 | head -c 50000000)
  # What does not fit is not begun, wherever it comes from; endless input ends it.
  pv-disk zero t --all >/dev/null
  expect_error out_of_range 4 pv-disk write t --from want --offset 32M
  run -4 --separate-stderr pv-disk write t < <(yes)
  has '.error.code == "out_of_range"'
  cmp -n 67108864 /dev/zero <(pv-disk read t --length 64M --raw)
  mkfifo silent
  run -6 --separate-stderr pv-disk write t --timeout 200ms <>silent
}

@test "resize: new clients see the size, old ones get errors beyond it, the image has it" {
  random_file t.img 1048576
  serve t --image t.img
  ok pv-disk resize t 2M
  has '.disk | .size_bytes == 2097152 and .previous_bytes == 1048576 and .guest_bytes == null'
  run -0 nbdinfo --size "$(uri t)"
  assert_output 2097152
  assert_equal "$(stat -c %s t.img)" 2097152
  cmp -n 1048576 <(pv-disk read t --length 2M --raw) t.img
  pv-disk write t --offset 2096640 --from /etc/hostname >/dev/null
  expect_error invalid 4 pv-disk resize t 512k
  expect_error invalid 4 pv-disk resize t 1000
  expect_error usage 2 pv-disk resize t big
  run -0 bash -c 'pv-disk info t | pv-disk resize 512k --shrink -o size_bytes'
  assert_output 524288
  expect_error out_of_range 4 pv-disk read t --offset 512k
  ok pv-disk info t
  has '.disk.image_differs == false'
}

@test "resize of a read-only disk is refused, and so is one under requests that do not end" {
  truncate -s 1M t.img
  serve r --image t.img --read-only
  expect_error read_only 4 pv-disk resize r 2M
  pv-disk close r >/dev/null
  serve t --image t.img
  pv-fault add --disk t delay --delay 20s >/dev/null
  pv-disk read t >/dev/null &
  until_true in_flight t
  expect_error timeout 6 pv-disk resize t 2M --timeout 300ms
  assert_equal "$(stat -c %s t.img)" 1048576
  pv-fault clear --disk t >/dev/null
  wait
  ok pv-disk resize t 2M
}

@test "resize under load: every request is answered, none fails" {
  serve t --scratch 64M
  fio --name=x --ioengine=nbd --uri="$(uri t)" --rw=randrw --bs=64k --iodepth=16 --size=16M \
    --time_based --runtime=3 --verify=0 >fio.log 2>&1 &
  fio=$!
  for i in {1..20}; do
    pv-disk resize t $((64 + i % 3))M --shrink >/dev/null
    yes '{"op":"write","offset_bytes":33554432,"pattern":7,"length_bytes":65536}' | head -20 |
      pv-disk io t --parallel 8 >/dev/null
  done
  wait "$fio"
  run -0 grep -c 'err= 0' fio.log
}

@test "wait-resize returns with the change, at once when it has been, and not before" {
  serve t --memory 1M
  run -0 pv-disk wait-resize t --from 2M -o size_bytes
  assert_output 1048576
  expect_error timeout 6 pv-disk wait-resize t --from 1M --timeout 200ms
  pv-disk wait-resize t --from 1M --timeout 20s -o size_bytes >seen &
  sleep 0.3
  [ ! -s seen ]
  pv-disk resize t 3M >/dev/null
  wait
  assert_equal "$(cat seen)" 3145728
  # Waiters that give up leave nothing behind that would be answered.
  for i in {1..20}; do
    pv-disk wait-resize t --from 3M --timeout 50ms >/dev/null 2>&1 &
  done
  wait
  ok pv-disk resize t 1M --shrink
}

@test "the id of 16 bytes gives the serial, and a wrong one is refused" {
  pv-disk serve t --memory 1M --uuid 00112233-4455-6677-8899-AABBccddeeff >info
  has '.disk | .uuid == "00112233-4455-6677-8899-aabbccddeeff" and
    .serial == "00112233445566778899"' "$(cat info)"
  has '.disk | .sector_shift == 9 and .fua == "honoured" and .type == "memory" and
    .discard_granularity_bytes == 512 and .reservations == false' "$(cat info)"
  pv-disk serve u --memory 1M --uuid 00112233445566778899aabbccddeeff --serial S -o serial >got
  assert_equal "$(cat got)" S
  for bad in 0011 00112233445566778899aabbccddeefg 00112233-44556677-8899-aabb-ccddeeff \
    00000000-0000-0000-0000-000000000000 00112233445566778899aabbccddeeff00; do
    expect_error usage 2 pv-disk serve v --memory 1M --uuid "$bad"
  done
  expect_error unsupported_eject 4 pv-disk eject t
}
