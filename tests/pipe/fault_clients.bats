#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, an injected error does not reach the tools that stand where the guest will stand,
# or it takes their connection with it.

load helper
setup() {
  pv_setup
  serve d --scratch 8M
}
teardown() { pv_teardown; }

@test "qemu-io sees EIO on the range, and the next command on the same connection works" {
  ok pv-fault add --disk d error --op read --range 1M+4k
  run qio d 'write -P 1 0 2M' 'read -P 1 0 1M' 'read 1M 4k' 'read -P 1 1028k 64k' 'write -P 2 1M 4k'
  assert_equal "$(grep -c 'Input/output error' <<<"$output")" 1
  assert_output --partial 'read failed: Input/output error'
  assert_equal "$(grep -c '^read [0-9]*/[0-9]* bytes' <<<"$output")" 2
  assert_equal "$(grep -c '^wrote' <<<"$output")" 2
  refute_output --partial 'Pattern'
  ok pv-disk stats d
  has '.disk.stats.io_errors == 1'
}

@test "with --times 1 the same read fails once and then works" {
  ok pv-fault add --disk d eio_read --times 1
  run qio d 'read 0 4k' 'read 0 4k'
  assert_equal "$(grep -c 'Input/output error' <<<"$output")" 1
  assert_equal "$(grep -c '^read 4096/4096' <<<"$output")" 1
}

@test "qemu-io sees the errno that was asked for, where NBD can carry it" {
  local pair
  for pair in 'ENOSPC=No space left on device' 'EPERM=Operation not permitted' \
    'EINVAL=Invalid argument' 'ENOMEM=Cannot allocate memory' 'ETIMEDOUT=Input/output error' \
    'EROFS=Operation not permitted'; do
    ok pv-fault add --disk d error --op write --errno "${pair%%=*}" --times 1
    run qio d 'write -P 1 0 4k' 'write -P 1 0 4k'
    assert_output --partial "write failed: ${pair#*=}"
    assert_output --partial 'wrote 4096/4096'
    ok pv-fault clear --disk d
  done
}

@test "flush, discard and write zeroes fail for qemu-io and recover" {
  ok pv-fault add --disk d error --op flush,discard,zero --times 3
  # The cache below must be written back for a flush to be sent.
  run qio d 'discard 0 64k' 'write -z 0 64k' 'write -P 1 0 4k' flush 'discard 0 64k' \
    'write -z 64k 64k' 'write -P 1 128k 4k' flush
  ok pv-fault list --disk d
  has '.rule.fired == 3 and .rule.left == 0'
}

@test "nbdcopy stops at an injected error and says so; once cleared it works" {
  ok pv-fault add --disk d error --op read --sector 5000
  random_file data 8388608
  ok nbdcopy data "$(uri d)"
  run nbdcopy "$(uri d)" out.img
  assert_failure
  assert_output --partial 'Input/output error'
  ok pv-fault clear --disk d
  ok nbdcopy "$(uri d)" out.img
  cmp data out.img
}

@test "qemu-img compare and convert report the injected error" {
  random_file data 8388608
  nbdcopy data "$(uri d)"
  ok pv-fault add --disk d error --op read --sector 5000
  run qemu-img compare -f raw -F raw data "$(uri d)"
  assert_failure 4
  assert_output --partial 'Input/output error'
  run qemu-img convert -f raw -O raw "$(uri d)" out.img
  assert_failure
  assert_output --partial 'Input/output error'
}

@test "fio counts the injected errors and goes on" {
  ok pv-fault add --disk d error --op read --every 10
  run fio --name=t --ioengine=nbd --uri="$(uri d)" --rw=read --bs=4k --size=2M --iodepth=16 \
    --continue_on_error=io --output-format=json
  local report
  report=$(sed -n '/^{/,/^}/p' <<<"$output")
  has '.jobs[0].total_err == 51' "$report"
  ok pv-fault list --disk d
  has '.rule.matched == 512 and .rule.fired == 51'
}

@test "an error for one client does not touch the other's connection" {
  ok pv-fault add --disk d eio_read --times 1
  coproc held { qemu-io -f raw "$(uri d)" 2>&1; }
  local in=${held[1]} from=${held[0]} pid=$held_PID line
  run qio d 'read 0 4k'
  assert_output --partial 'Input/output error'
  echo 'read -P 0 0 4k' >&"$in"
  read -r -t 10 line <&"$from"
  [[ $line == *'read 4096/4096'* ]]
  echo quit >&"$in"
  wait "$pid"
}

@test "slow is felt by an NBD client, and requests sleep side by side, not in a row" {
  ok pv-fault add --disk d delay --delay 500ms --op read
  local start
  start=$(date +%s%N)
  run qio d 'read 0 4k'
  assert_success
  assert [ "$(since_ms "$start")" -ge 500 ]
  ok pv-fault clear --disk d
  # In a row the second would be decided on when the first has slept.
  ok pv-fault add --disk d delay --delay 10m --op read --id nap
  qio d 'aio_read 0 4k' 'aio_read 4k 4k' 'aio_read 8k 4k' 'aio_read 12k 4k' 'aio_flush' >out &
  ok pv-fault wait nap --hits 4 --disk d
  ok pv-disk info d -o in_flight
  assert_output 4
  ok pv-fault clear --disk d
  wait $!
  assert_equal "$(grep -c '^read 4096/4096' out)" 4
}

@test "a client that is killed in the middle of slow requests leaves the server well" {
  ok pv-fault add --disk d delay --delay 20s
  qio d 'aio_write 0 64k' 'aio_write 64k 64k' 'aio_read 0 64k' 'aio_flush' >/dev/null 2>&1 &
  local client=$!
  until_true in_flight d
  pkill -KILL -P "$client" qemu-io || kill -KILL "$client" || true
  wait "$client" || true
  ok pv-fault clear --disk d
  ok pv-disk read d
  alone() { [ "$(pv-disk info d -o connections </dev/null)" = 0 ]; }
  until_true alone
  ok pv-disk info d
  has '.disk.connections == 0 and .disk.in_flight == 0'
}
