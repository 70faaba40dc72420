#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a power cut of served disks loses what was flushed, keeps what was not, hits the
# disks at different moments, or leaves one that is not served any more.

load helper
setup() { pv_setup; }
teardown() { pv_teardown; }

# block ID OFFSET CHARACTER [FLAG]: 4 KiB from a client that does not flush when it ends.
block() {
  head -c 4096 /dev/zero | tr '\0' "$3" | pv-disk write "$1" --offset "$2" "${@:4}" >/dev/null
}

# sees ID PATTERN OFFSET LENGTH: what qemu-io, which knows nothing of us, reads there.
sees() {
  run qemu-io -r -f raw -c "read -P $2 $3 $4" "$(uri "$1")"
  [ "$status" -eq 0 ] && [[ $output != *"verification failed"* ]] ||
    batslib_print_kv_single 8 disk "$1" pattern "$2 at $3+$4" output "$output" |
    batslib_decorate 'the disk holds something else' | fail
}

@test "flushed and FUA data survive the cut of two disks, the rest does not" {
  truncate -s 4M a.img
  serve a --image a.img --layer cache
  serve b --memory 4M --layer cache
  for d in a b; do
    block $d 0 F
    ok qio $d 'write -f -P 90 64k 64k'  # flushes when it ends
    block $d 4k A --fua
    block $d 8k U
    block $d 0 O
  done
  ok pv-fault power-cut --disk a --disk b
  assert_equal "$(command jq -c .power_cut <<<"$output")" \
    "$(command jq -nc '[{id:"a"},{id:"b"}] | map(. + {dropped_bytes:8192,kept_bytes:0,survivors:"none"})')"
  for d in a b; do
    sees $d 70 0 4k
    sees $d 65 4k 4k
    sees $d 0 8k 4k
    sees $d 90 64k 64k
  done
  block a 8k N
  ok pv-disk flush a
  ok pv-disk close a
  ok qemu-io -r -f raw -c 'read -P 70 0 4k' -c 'read -P 78 8k 4k' a.img
}

@test "nbdcopy's copy without a flush is lost, with --flush it is not" {
  random_file data 1048576
  serve d --memory 1M --layer cache
  ok nbdcopy data "$(uri d)"
  ok pv-fault power-cut --disk d
  has '.power_cut[0].dropped_bytes == 1048576'
  sees d 0 0 1M
  ok nbdcopy --flush data "$(uri d)"
  ok pv-fault power-cut --disk d
  has '.power_cut[0].dropped_bytes == 0'
  ok nbdcopy "$(uri d)" back
  ok cmp data back
}

@test "random survivors come again with the seed that was printed, and with no other" {
  cut() { # SEED…: what is left of a full disk
    local id=$1
    python3 -c 'import random, sys
sys.stdout.buffer.write(random.Random(1).randbytes(262144))' >data
    serve "$id" --memory 256K --layer cache
    nbdcopy data "$(uri "$id")"
    pv-fault power-cut --disk "$id" --survivors random "${@:2}" </dev/null >"cut.json"
    nbdcopy "$(uri "$id")" left
    pv-disk close "$id" </dev/null >/dev/null
  }
  cut d
  seed=$(jq -r '.power_cut[0].seed' cut.json)
  cp cut.json first.json
  cp left first
  cut d --seed "$seed"
  ok cmp left first
  ok cmp cut.json first.json
  cut d --seed 1
  run cmp -s left first
  assert_failure 1
  cut d --seed "$seed" --atomic 4k
  # Whole pages: each is either there or zero.
  python3 - <<'END'
data, left = open("data", "rb").read(), open("left", "rb").read()
pages = [left[i:i + 4096] == data[i:i + 4096] for i in range(0, len(data), 4096)]
assert all(p or not any(left[i * 4096:i * 4096 + 4096]) for i, p in enumerate(pages))
assert 10 < sum(pages) < 54, pages
END
}

@test "listed survivors are those bytes and no others" {
  serve a --memory 1M --layer cache
  serve b --memory 1M --layer cache
  for d in a b; do ok nbdcopy -- <(head -c 65536 /dev/zero | tr '\0' X) "$(uri $d)"; done
  ok pv-fault power-cut --disk a --disk b --survivors listed --keep a:512+1k --keep b:32k+512 \
    --keep a:8k+4k
  assert_equal "$(jq -c '[.power_cut[].kept_bytes]' <<<"$output")" '[5120,512]'
  sees a 0 0 512
  sees a 88 512 1k
  sees a 0 1536 6656
  sees a 88 8k 4k
  sees b 0 0 32k
  sees b 88 32k 512
  ok pv-fault power-cut --disk a --survivors listed
  sees a 88 8k 4k
}

@test "a client that is in the middle of a request is hung up on and gets no answer" {
  serve d --memory 1M --layer delay:ms=10000 --layer cache
  socket=$(sock d)
  PYTHONPATH="$BATS_TEST_DIRNAME/../crash" python3 - "$socket" <<'END' &
import sys
import nbd_client
client = nbd_client.Client(sys.argv[1])
client.send(nbd_client.WRITE, 0, 512, None, b"x" * 512, nbd_client.FUA)
try:
    answers = list(client.answers(60))
    sys.exit(f"answered: {answers}")
except nbd_client.Gone:
    pass
END
  client=$!
  until_true in_flight d
  ok pv-fault power-cut --disk d
  wait "$client"
  # It was held back above the cache when the power went: it may not arrive after that.
  sees d 0 0 512
  ok pv-disk info d -o in_flight
  assert_output 0
}

@test "a cut that is killed half way leaves the disks as they were" {
  serve d --memory 1M --layer cache
  block d 0 U
  python3 - "$(pv-disk info d -o control </dev/null)" <<'END'
import json, socket, subprocess, sys
control = socket.socket(socket.AF_UNIX)
control.connect(sys.argv[1])
control.sendall(b'{"op":"power.freeze"}\n')
assert json.loads(control.recv(4096)) == {}
for words in (["pv-disk", "resize", "d", "2M"], ["pv-fault", "power-cut", "--disk", "d"]):
    refused = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True)
    assert json.loads(refused.stdout)["error"]["code"] == "wrong_state", refused
END
  sees d 85 0 4k
  ok pv-fault power-cut --disk d
  has '.power_cut[0].dropped_bytes == 4096'
}

@test "two cuts of the same disks at once come one after the other" {
  serve a --memory 1M --layer cache
  serve b --memory 1M --layer cache
  block a 0 U
  pids=()
  for i in 1 2 3 4; do
    if ((i % 2)); then order=(--disk a --disk b); else order=(--disk b --disk a); fi
    pv-fault power-cut "${order[@]}" </dev/null >"out.$i" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid"; done
  assert_equal "$(jq -s '[.[].power_cut[].dropped_bytes] | add' out.*)" 4096
}

@test "rules stay armed, and the disk of a document is cut" {
  serve d --memory 1M --layer cache
  block d 0 U
  pv-disk info d </dev/null | pv-fault add eio_read >doc
  ok pv-fault power-cut --in doc
  has '.rule.id == "eio_read" and .disk.id == "d" and .power_cut[0].dropped_bytes == 4096'
  expect_error io 4 pv-disk read d --offset 0 --length 512
  ok pv-fault list --disk d -o id
  assert_output eio_read
}

@test "a disk without a cache loses nothing, and its clients" {
  serve d --memory 1M
  block d 0 K
  ok pv-fault power-cut --disk d --survivors random --seed 3
  has '.power_cut == [{"id":"d","dropped_bytes":0,"kept_bytes":0,"survivors":"random","seed":"3"}]'
  sees d 75 0 4k
}

@test "what cannot be cut as asked is refused, and nothing is lost" {
  serve d --memory 1M --layer cache
  serve plain --memory 1M --no-fault --layer cache
  block d 0 U
  block plain 0 U
  expect_error not_mediated 4 pv-fault power-cut --disk d --disk plain
  expect_error no_such_disk 4 pv-fault power-cut --disk d --disk nope
  expect_error no_such_vm 4 pv-fault power-cut nope
  expect_error no_such_disk 4 pv-fault power-cut --disk d --survivors listed --keep x:0+4k
  expect_error out_of_range 4 pv-fault power-cut --disk d --survivors listed --keep d:1M+4k
  expect_error invalid 4 pv-fault power-cut --disk d --survivors listed --keep d:100+4k
  expect_error invalid 4 pv-fault power-cut --disk d --survivors random --atomic 700
  expect_error usage 2 pv-fault power-cut --disk d --keep d:0+4k
  expect_error usage 2 pv-fault power-cut --disk d --survivors listed --keep 0+4k
  expect_error usage 2 pv-fault power-cut --disk d --survivors random --seed minus
  expect_error usage 2 pv-fault power-cut --disk d --survivors random --seed 18446744073709551616
  expect_error usage 2 pv-fault power-cut --disk d --seed 1
  expect_error usage 2 pv-fault power-cut --disk d --atomic 4k
  expect_error usage 2 pv-fault power-cut --disk d --survivors some
  expect_error usage 2 pv-fault power-cut --disk d --disk d
  expect_error usage 2 pv-fault power-cut v --disk d
  expect_error bad_document 3 pv-fault power-cut
  sees d 85 0 4k
  sees plain 85 0 4k
}

@test "a chain of dependent writes over three disks is never torn" {
  run "$BATS_TEST_DIRNAME/../crash/chain" --cuts 20
  echo "$output"
  assert_success
  assert_line 'the disks agree on one instant'
}
