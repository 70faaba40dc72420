#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, an image that is not a local file is read wrongly or written although it cannot be,
# a back end that went away stays away, or what was flushed before it went is lost.

load helper
setup() { pv_setup; }
teardown() { pv_teardown; }

# started FILE: waits for what a server in the background makes when it is ready.
started() { until_true test -e "$1"; }

web_server() {
  python3 "$BATS_TEST_DIRNAME/../servers/range_server.py" "$PWD" "$@" 3>&- &
  started "$1"
  WEB="http://127.0.0.1:$(cat "$1")"
}

# nbdkit_on FILE: serves it on nk.sock; its process is $NBDKIT.
nbdkit_on() {
  rm -f nk.sock nk.pid
  nbdkit -f -P nk.pid -U "$PWD/nk.sock" file "$1" 3>&- &
  NBDKIT=$!
  started nk.pid # the socket is there before anybody listens
}

end() {
  kill -KILL "$1"  # nbdkit would wait for its clients
  wait "$1" 2>/dev/null || true
}

backend_is() { pv-disk info "$1" </dev/null | jq -e ".disk.backend | $2" >/dev/null; }

@test "http: a raw image and a qcow2 are read over byte ranges and cannot be written" {
  random_file r.img 1048576
  qemu-img convert -f raw -O qcow2 r.img r.qcow2
  web_server port
  local web=$! name
  for name in r.img r.qcow2; do
    serve d --image "$WEB/$name"
    ok pv-disk info d
    has '.disk.read_only and .disk.source.type == "uri" and .disk.backend.connected'
    qemu-img compare -f raw -F raw r.img "$(uri d)"
    expect_error read_only 4 pv-disk zero d --all
    ok pv-disk close d
  done
  cp r.qcow2 nameless
  serve d --image "$WEB/nameless?x=y" --format qcow2
  ok pv-disk size d
  has '.disk.size_bytes == 1048576'
  ok pv-disk close d
  serve d --image "$WEB/r.img" --layer cow # the base can only be read, the disk can be written
  qio d 'write -P 7 0 4k' 'read -P 7 0 4k'
  ok pv-disk close d
  expect_error no_image 4 pv-disk serve d --image "$WEB/nosuch.img"
  [[ $stderr == *404* ]] || fail "$stderr"
  end "$web"
}

@test "http: a server without byte ranges is refused with the reason" {
  truncate -s 1M r.img
  web_server port --no-ranges
  local web=$!
  expect_error no_image 4 pv-disk serve d --image "$WEB/r.img"
  [[ $stderr == *range* ]] || fail "$stderr"
  end "$web"
}

@test "URIs that are none, and schemes that nobody knows" {
  expect_error usage 2 pv-disk serve d --image gopher://h/x
  has '.error.valid == ["http","https","nbd","nbd+unix","nvme","rbd","ssh"]'
  local uri
  for uri in nbd://h:x/ 'nbd://[::1' nbd+unix:///e http:///x ssh://h rbd:pool nvme://x/1 \
    'nbd://h/%zz' 'nbd+unix:///?socket=/s&socket=/t'; do
    expect_error usage 2 pv-disk serve d --image "$uri"
  done
  expect_error usage 2 pv-disk serve d --image ssh://me:hush@h/x
  [[ $output$stderr != *hush* ]] || fail "the password is repeated"
  expect_error usage 2 pv-disk serve d --template nbd://h/x
  expect_error io 4 pv-disk serve d --image nbd://127.0.0.1:1/x
  expect_error io 4 pv-disk serve d --image "nbd+unix:///?socket=$PWD/none.sock"
  expect_error usage 2 pv-disk create http://h/x
  assert [ -z "$(ls -A "$PV_RUN_DIR/obj" 2>/dev/null)" ]
}

@test "--blockdev: an object of QEMU's is opened as it is" {
  random_file r.img 1048576
  serve d --blockdev \
    '{"driver":"raw","offset":524288,"size":4096,"file":{"driver":"file","filename":"r.img"}}'
  pv-disk read d --count 8 --raw | cmp - <(tail -c +524289 r.img | head -c 4096)
  ok pv-disk info d
  has '.disk.source.blockdev.offset == 524288 and .disk.size_bytes == 4096'
  ok pv-disk close d
  serve d --read-only --blockdev '{"driver":"null-co","size":1048576}'
  expect_error read_only 4 pv-disk zero d --all
  expect_error usage 2 pv-disk serve e --blockdev '{"driver":"null-co","node-name":"x"}'
  expect_error usage 2 pv-disk serve e --blockdev 'driver=null-co'
  expect_error usage 2 pv-disk serve e --blockdev '{"driver":"null-co"}' --memory 1M
  expect_error no_image 4 pv-disk serve e --blockdev '{"driver":"nosuch-filter","x":1}'
}

@test "nbd: nbdkit and a server of ours as upstream, by socket and by port" {
  random_file r.img 1048576
  nbdkit_on r.img
  serve one --image "nbd+unix:///?socket=$PWD/nk.sock"
  serve two --image "$(uri one)"
  qemu-img compare -f raw -F raw r.img "$(uri two)"
  run qio two 'write -P 9 64k 64k' 'write -z 0 4k' 'discard 512k 4k' flush 'read -P 9 64k 64k'
  assert_success
  ok pv-disk close two
  ok pv-disk close one
  end "$NBDKIT"
  assert_equal "$(tail -c +65537 r.img | head -c 65536 | tr -d '\011' | wc -c)" 0
  # A name in an export, and a port that the kernel chooses.
  local port
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  nbdkit -f -P pid -i 127.0.0.1 -p "$port" --filter=exportname file r.img exportname=e \
    exportname-strict=true 3>&- &
  NBDKIT=$!
  started pid
  serve tcp --image "nbd://localhost:$port/e"
  qemu-img compare -f raw -F raw r.img "$(uri tcp)"
  expect_error io 4 pv-disk serve d --image "nbd://127.0.0.1:$port/other"
  end "$NBDKIT"
}

@test "nbd: an upstream that goes is told, waited for, and found again" {
  truncate -s 1M r.img
  nbdkit_on r.img
  serve d --image "nbd+unix:///?socket=$PWD/nk.sock" --reconnect 10s
  printf 'kept' | pv-disk write d --fua >/dev/null
  end "$NBDKIT"
  until_true backend_is d '.connected == false'
  ok pv-disk info d
  has '.disk.state == "serving" and (.disk.backend.why | length > 0)'
  (
    sleep 0.3
    rm nk.sock
    exec nbdkit -f -P pid -U "$PWD/nk.sock" file r.img
  ) 3>&- &
  assert_equal "$(pv-disk read d --raw </dev/null | head -c 4)" kept  # it waits
  ok pv-disk info d
  has '.disk.backend.connected and .disk.backend.reconnects == 1'
  end "$!"
  truncate -s 2M r.img
  nbdkit_on r.img
  expect_error io 4 pv-disk read d
  has '.error.errno == "ESHUTDOWN"'
  ok pv-disk info d
  has '.disk.size_bytes == 1048576 and (.disk.backend.why | contains("2097152"))'
  end "$NBDKIT"
}

@test "qemu-storage-daemon killed under load, again and again: nothing that was flushed is lost" {
  qemu-img create -q -f qcow2 t.qcow2 64M
  serve d --image t.qcow2
  local worker round pids=() value
  for worker in 0 1 2; do
    (
      for ((round = 1; round <= 60 && round < 250; round++)); do
        # A new place each time, so that each needs metadata which a killed daemon forgets.
        at=$(((worker * 60 + round) * 131072))
        qio d "write -P $round $at 64k" flush >"log.$worker" 2>&1 || continue
        grep -q failed "log.$worker" || echo "$at $round" >>"durable.$worker"
      done
    ) 3>&- &
    pids+=($!)
  done
  for round in 1 2 3 4; do
    sleep 0.4
    until_true backend_is d .connected
    kill -KILL "$(pv-disk info d -o backend.pid)"
    until_true backend_is d ".restarts == $round" # until then it is still connected
  done
  wait "${pids[@]}"
  until_true backend_is d '.connected and .restarts == 4'
  ok pv-disk close d
  run qemu-img check t.qcow2
  [ "$status" -eq 0 ] || [ "$status" -eq 3 ] || fail "$output"  # 3: leaked clusters only
  assert [ "$(cat durable.* | wc -l)" -gt 60 ]
  local commands=()
  while read -r at value; do commands+=(-c "read -P $value $at 64k"); done < <(cat durable.*)
  run qemu-io -r -f qcow2 "${commands[@]}" t.qcow2
  refute_output --partial 'ailed'
}

@test "a daemon that cannot come back: requests fail in time, and the disk says why" {
  qemu-img create -q -f qcow2 t.qcow2 1M
  serve d --image t.qcow2 --reconnect 300ms
  mv t.qcow2 away.qcow2
  kill -KILL "$(pv-disk info d -o backend.pid)"
  until_true backend_is d '.connected == false'
  expect_error io 4 pv-disk read d --timeout 20s
  ok pv-disk info d
  has '.disk.backend.connected == false'
  ok pv-disk close d
}

@test "two servers that start on one image at once: one of them gets it" {
  truncate -s 1M t.img
  qemu-img create -q -f qcow2 t.qcow2 1M
  local name round
  for name in t.img t.qcow2; do
    for round in 1 2 3 4; do
      pv-disk serve a --image "$name" </dev/null >/dev/null 2>&1 3>&- &
      pv-disk serve b --image "$name" </dev/null >/dev/null 2>&1 3>&- &
      wait
      assert_equal "$(pv-disk list </dev/null | grep -c .)" 1
      pv-disk close --all </dev/null >/dev/null
    done
  done
}

@test "a template is not copied while somebody writes to it" {
  truncate -s 1M t.img
  serve d --image t.img
  expect_error in_use 4 pv-disk serve c --template t.img
  ok pv-disk close d
  serve c --template t.img
  serve d --image t.img
}

@test "a raw image that is cut or grown from outside is told and not adopted" {
  truncate -s 1M t.img
  serve d --image t.img
  backend_is d '.resized_outside == false and .backing_size_bytes == 1048576'
  truncate -s 2M t.img
  ok pv-disk info d
  has '.disk.backend | .resized_outside and .backing_size_bytes == 2097152'
  has '.disk.size_bytes == 1048576'
}

@test "devices: what has no size is refused, and --direct says where it cannot be" {
  expect_error no_image 4 pv-disk serve d --image /dev/null
  expect_error usage 2 pv-disk serve d --memory 1M --direct
  expect_error usage 2 pv-disk serve d --image nbd://h/x --direct
}
