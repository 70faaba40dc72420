#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, documents or errors get lost on the way down a pipe (pv-json(7)).

load helper
setup() { pv_setup; }
teardown() { pv_teardown; }

@test "context accumulates: serve, add, read in one pipe, and the read fails as told" {
  expect_error io 4 bash -c 'pv-disk serve d --scratch 1M | pv-fault add eio_read | pv-disk read'
  has '.disk.id == "d" and .rule.id == "eio_read" and .error.rule == "eio_read"'
  ok bash -c 'set -o pipefail; pv-disk info d | pv-fault clear | pv-disk read'
  has '.disk.faults == [] and .data.length_bytes == 512 and .cleared[0].fired == 1'
}

@test "keys that a stage does not know are passed on" {
  serve d --scratch 1M
  ok bash -c 'pv-disk info d | jq -c ".mine = {\"x\":[1,2]}" | pv-fault add slow | pv-disk flush'
  has '.mine.x == [1,2] and .rule.id == "slow"'
}

@test "an error goes down the pipe: only the first stage speaks, code and class survive" {
  run --separate-stderr bash -c 'pv-disk read nosuch </dev/null | pv-fault add eio_read'
  assert [ "$status" -eq 4 ]
  assert [ "${#stderr_lines[@]}" -eq 1 ]
  [[ $stderr == 'pv-disk: no disk '\''nosuch'\'* ]]
  has '.error.code == "no_such_disk" and .error.valid == []'
  run --separate-stderr bash -c \
    'pv-disk serve d --scratch 1k3 </dev/null | pv-fault add slow | pv-disk read | pv-fault clear'
  assert [ "$status" -eq 2 ]
  assert [ "${#stderr_lines[@]}" -eq 1 ]
  has '.error.code == "usage"'
}

@test "an error keeps the context that was there before it" {
  serve d --scratch 1M
  run --separate-stderr bash -c \
    'pv-disk info d | pv-fault add eio_read | pv-disk read | pv-disk flush | pv-fault active'
  assert [ "$status" -eq 4 ]
  assert [ "${#stderr_lines[@]}" -eq 1 ]
  has '.disk.id == "d" and .rule.id == "eio_read" and .error.errno == "EIO" and .error.injected'
}

@test "a rule travels: add takes the rule of the document when no mode is named" {
  serve d --scratch 1M
  ok bash -c \
    'pv-disk info d | jq -c ".rule = {id: \"mine\", do: {kind: \"error\"}}" | pv-fault add'
  has '.rule.id == "mine" and .disk.faults == ["mine"]'
}

@test "--in reads the document from a file and leaves stdin to the data" {
  serve d --scratch 1M
  pv-disk info d </dev/null >doc.json
  ok bash -c 'printf "%512s" hello | pv-disk write --in doc.json --from -'
  assert_equal "$(pv-disk read d --raw </dev/null | tr -d ' ')" hello
  expect_error system 5 pv-disk read --in nosuch.json
}

@test "a command with a name does not touch stdin, so it is safe in a read loop" {
  serve a --memory 1M
  serve b --memory 1M
  # shellcheck disable=SC2016 # the inner shell's variable
  ok bash -c 'printf "a\nb\n" | while read -r id; do
    pv-disk info "$id" -o id
    pv-fault add --disk "$id" slow -o id
  done'
  assert_output $'a\nslow\nb\nslow'
}

# in_document TEXT: `pv-disk read` is given that on stdin.
in_document() { printf '%b' "$1" | pv-disk read; }

@test "stdin is refused when empty, not JSON, two documents, of wrong version or with keys twice" {
  serve d --scratch 1M
  local text
  for text in '' '\n\n' 'hello' '{' '{"v":1' '[]' '7' 'null' '"v"' '{}' '{"disk":{"id":"d"}}' \
    '{"v":2,"disk":{"id":"d"}}' '{"v":"1","disk":{"id":"d"}}' '{"v":1,"v":1,"disk":{"id":"d"}}' \
    '{"v":1,"disk":{"id":"d","id":"e"}}' '{"v":1,"disk":{"id":"d"}}\n{"v":1,"disk":{"id":"d"}}\n' \
    '{"v":1,"disk":{"id":"d"}} x' '{"v":1}' '{"v":1,"disk":7}' '{"v":1,"disk":{"id":7}}' \
    '{"v":1,"vm":{"name":"v","disks":["a","b"]}}' '{"v":1,"disk":{"id":"\\xff"}}' \
    '\x00' '\xff\xfe{}' '{"v":1,"a":NaN}'; do
    run --separate-stderr in_document "$text"
    [ "$status" -eq 3 ] || fail "'$text': exit $status: $stderr"
    [ "${#stderr_lines[@]}" -eq 1 ] || fail "'$text': $stderr"
    has '.error.code == "bad_document"'
  done
}

@test "two documents are called by their name" {
  expect_error bad_document 3 bash -c 'printf "{\"v\":1}\n{\"v\":1}\n" | pv-disk read'
  [[ $stderr == *'more than one document'* ]]
}

@test "a document nested without end is refused, not followed" {
  run --separate-stderr bash -c 'printf "[%.0s" {1..100000} | pv-disk read'
  assert [ "$status" -eq 3 ]
  assert [ "${#stderr_lines[@]}" -eq 1 ]
  local deep
  deep=$(printf '[%.0s' {1..70})$(printf ']%.0s' {1..70})
  run --separate-stderr in_document '{"v":1,"disk":{"id":"d"},"x":'"$deep}"
  assert [ "$status" -eq 3 ]
  assert_equal "$stderr" 'pv-disk: stdin is not valid JSON: nested too deeply'
}

@test "stdin closed is a clear error" {
  run --separate-stderr bash -c 'pv-disk read <&-'
  assert [ "$status" -eq 3 ]
  assert [ "${#stderr_lines[@]}" -eq 1 ]
}

@test "stdout that cannot be written to is an error, not silence" {
  serve d --scratch 1M
  run --separate-stderr bash -c 'pv-disk info d >/dev/full'
  assert [ "$status" -eq 5 ]
  assert [ "${#stderr_lines[@]}" -eq 1 ]
}

@test "--raw and -o put no error document on stdout" {
  run --separate-stderr pv-disk read nosuch --raw
  assert [ "$status" -eq 4 ]
  assert_output ''
  run --separate-stderr pv-disk info nosuch -o id
  assert [ "$status" -eq 4 ]
  assert_output ''
}

@test "what a terminal would show is made from the same document" {
  serve d --scratch 1M
  ok pv-fault add --disk d eio_read --text
  assert_line --regexp '^rule'
  assert_line --regexp 'id +eio_read'
  run --separate-stderr pv-fault add --disk d nonsense --text
  assert [ "$status" -eq 2 ]
  assert_output ''
}

@test "closed or full stdin, stdout and stderr are errors of their own, never a crash" {
  serve d --memory 1M
  run -5 bash -c 'pv-disk write d --timeout 5s <&-'
  run -4 bash -c 'pv-disk info nosuch 2>&-'
  run -4 bash -c 'pv-disk info nosuch 2>/dev/full'
  run -5 bash -c 'pv-disk list --json >/dev/full'
  run -5 bash -c 'pv-disk list --json >&-'
}

@test "an error of a later version goes down the pipe unchanged" {
  run -4 --separate-stderr bash -c 'echo "{\"v\":1,\"error\":{\"code\":\"new\"}}" | pv-disk info'
  assert_output '{"v":1,"error":{"code":"new"}}'
  assert_equal "$stderr" ''
}

@test "an object directory without a name is swept away" {
  pv-disk list
  mkdir "$PV_RUN_DIR/obj/deadbeef"
  touch -d '1 minute ago' "$PV_RUN_DIR/obj/deadbeef"
  serve d --memory 1M
  ok pv-disk close --all
  [ ! -e "$PV_RUN_DIR/obj/deadbeef" ]
}
