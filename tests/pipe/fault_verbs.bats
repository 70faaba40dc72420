#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a verb of pv-fault does not do what it says: rules that come as documents, requests
# that are held, marks and states, waiting, asserting, repairing, following the journal.

load helper
setup() {
  pv_setup
  serve d --memory 4M
}
teardown() { pv_teardown; }

put() { printf '%s\n' "$2" | pv-disk write d --sector "$1"; }
text() { pv-disk read d --sector "$1" --raw </dev/null | tr -d '\0'; }

@test "many rules come as lines, as a list, as an object with rules, on stdin or from a file" {
  printf '%s\n' '{"id":"a","do":{"kind":"drop_flush"}}' '{"id":"b","do":{"kind":"read_only"}}' >lines
  jq -s . lines >list
  jq -s '{rules:.}' lines >object
  for file in lines list object; do
    ok pv-fault add --disk d --rules "$file"
    has '[.rules[].id] == ["a","b"] and .disk.faults == ["a","b"]'
    ok pv-fault clear --disk d
    ok pv-fault add --disk d --rules - <"$file"
    has '[.rules[].id] == ["a","b"]'
    ok pv-fault clear --disk d
  done
  ok bash -c 'pv-disk info d | jq -c --slurpfile r list ". + {rules: \$r[0]}" | pv-fault add'
  has '.disk.faults == ["a","b"]'
}

@test "--sector counts in the disk's sectors also where the rule came as a document" {
  serve big --memory 4M --sector-size 4096
  ok bash -c 'pv-disk info big | jq -c ". + {rule: {do: {kind: \"error\"}}}" |
    pv-fault add --sector 2'
  has '.rule.match.ranges == [[8192,4096]]'
  expect_error bad_rule 2 bash -c 'pv-disk info big | jq -c ". + {rules: []}" | pv-fault add'
}

@test "of many rules all are added or none" {
  printf '%s\n' '{"id":"a","do":{"kind":"drop_flush"}}' '{"id":"b","do":{"kind":"nothing"}}' >lines
  expect_error bad_mode 2 pv-fault add --disk d --rules lines
  ok pv-fault active --disk d -o faults
  assert_output '[]'
  printf '%s\n' '{"id":"a","do":{"kind":"drop_flush"}}' '{"id":"a","do":{"kind":"read_only"}}' >lines
  expect_error duplicate_name 4 pv-fault add --disk d --rules lines
  ok pv-fault active --disk d -o faults
  assert_output '[]'
}

@test "more rules than a disk can have are refused at once" {
  seq 5000 | jq -c '{id: "q\(.)", do: {kind: "drop_flush"}}' >lines
  expect_error invalid 4 pv-fault add --disk d --rules lines --timeout 60s
  head -n 4096 lines >fit
  ok pv-fault add --disk d --rules fit -o rules
  expect_error invalid 4 pv-fault add --disk d eio_read
  expect_error usage 2 pv-fault clear '' --disk d
  ok pv-fault clear --disk d -o disk.id
}

@test "a document that holds no rules is refused, and says where" {
  printf '%s\n' '{"do":{"kind":"drop_flush"}}' 'not json' >lines
  expect_error bad_document 3 pv-fault add --disk d --rules lines
  assert_regex "$stderr" 'line 2'
  expect_error bad_document 3 pv-fault add --disk d --rules <(echo 7)
  expect_error bad_document 3 pv-fault add --disk d --rules <(echo)
  expect_error bad_document 3 pv-fault add --disk d --rules <(echo '{"rules":[]}')
  expect_error usage 2 pv-fault add --rules -
}

@test "a rule that could never fire, or contradicts itself, is refused with one line" {
  expect_error bad_rule 2 pv-fault add --disk d error --times 0
  expect_error bad_rule 2 pv-fault add --disk d error --range 1M+0
  expect_error bad_rule 2 pv-fault add --disk d error --range 4M+1
  expect_error bad_rule 2 pv-fault add --disk d error --min-bytes 8k --max-bytes 4k
  expect_error bad_rule 2 pv-fault add --disk d error --aligned-to 4k --unaligned-to 2k
  expect_error bad_rule 2 pv-fault add --disk d error --unaligned-to 512
  expect_error bad_rule 2 pv-fault add --disk d error --op read --flag fua
  expect_error bad_rule 2 pv-fault add --disk d error --op read --content x
  expect_error bad_rule 2 pv-fault add --disk d error --front host --connection 1
  expect_error bad_rule 2 pv-fault add --disk d error --from-time 2s --to-time 1s
  expect_error bad_rule 2 pv-fault add --disk d error --since m --until m
  expect_error bad_rule 2 pv-fault add --disk d error --probability 1.5
  expect_error usage 2 pv-fault add --disk d error --probability nan
  expect_error bad_rule 2 pv-fault add --disk d error --op read --aligned-to 4k --max-bytes 512
  expect_error bad_rule 2 pv-fault add --disk d error --op write --content x --content-at 100M
  expect_error bad_rule 2 pv-fault add --disk d error --op write --content x --content-hex 41
  expect_error bad_rule 2 pv-fault add --disk d error --id self --since self
  expect_error usage 2 pv-fault add --disk d error --state ''
  expect_error bad_rule 2 pv-fault add --disk d error --errno ENONSENSE
  expect_error bad_rule 2 pv-fault add --disk d error --set wrong=1
  expect_error bad_rule 2 pv-fault add --disk d drop_flush --op read
  expect_error bad_rule 2 pv-fault add --disk d medium
  expect_error bad_rule 2 pv-fault add --disk d drop_write --heal
  expect_error bad_rule 2 pv-fault add --disk d corrupt_read --set pattern=wavy
  # A name that says something else than its selectors would make a test prove another thing.
  expect_error usage 2 pv-fault add --disk d eio_write --op read
  expect_error usage 2 pv-fault add --disk d eio_read --op read,write
  expect_error usage 2 pv-fault add --disk d eio_read --errno ENOSPC
  expect_error bad_mode 2 pv-fault add --disk d explode
  expect_error unsupported 4 pv-fault add --disk d power_cut
  expect_error unsupported 4 pv-fault add --disk d capacity --set size_bytes=8388608
  ok pv-fault active --disk d -o faults
  assert_output '[]'
}

@test "--clip cuts a range at the end and leaves those past it out" {
  ok pv-fault add --disk d medium --range 3M+9M --range 64M+1 --clip
  has '.rule.match.ranges == [[3145728,1048576]]'
  expect_error bad_rule 2 pv-fault add --disk d medium --range 64M+1 --clip
}

@test "a million bad sectors are added in a moment, and each is bad" {
  serve big --memory 1G
  seq 1 2 2000000 >sectors
  ok pv-fault add --disk big medium --sectors-file sectors --id bad
  has '.rule.match.ranges_count == 1000000'
  expect_error io 4 pv-disk read big --sector 1999999
  expect_error io 4 pv-disk read big --sector 777777
  ok pv-disk read big --sector 777776
  ok pv-disk read big --sector 2000001
  echo 'x y' >>sectors
  expect_error usage 2 pv-fault add --disk big medium --sectors-file sectors
  assert_regex "$stderr" 'line 1000001'
}

@test "held requests go on in the order that is asked for" {
  ok pv-fault add --disk d stall --op write --id hold
  put 1 one >/dev/null & put 1 two >/dev/null &
  ok pv-fault wait hold --hits 2 --disk d
  ok pv-fault held --disk d
  assert_equal "$(jq -s 'map(.held.rules[0]) | unique[0]' <<<"$output")" '"hold"'
  local first second
  first=$(jq -s '.[0].held.ticket' <<<"$output")
  second=$(jq -s '.[1].held.ticket' <<<"$output")
  ok pv-fault release "$second" "$first" --disk d
  has ".released == [$second,$first]"
  wait
  ok pv-fault held --disk d
  assert_output ''
}

@test "a held request can fail, or be acknowledged and forgotten" {
  ok pv-fault add --disk d stall --op write --id hold
  put 1 lost >answer 2>&1 &
  ok pv-fault wait hold --disk d
  ok pv-fault release --disk d --error ENOSPC
  wait || true
  grep -q '"errno":"ENOSPC","injected":true,"rule":"release"' answer
  put 1 lost >answer &
  ok pv-fault wait hold --hits 2 --disk d
  ok pv-fault release --disk d --drop
  wait
  assert_equal "$(text 1)" ''
  expect_error invalid 4 pv-fault release 77 --disk d
  expect_error usage 2 pv-fault release --disk d --drop --error EIO
  ok pv-fault clear --disk d --repair
  has '.repair.repaired_bytes == 512'
  assert_equal "$(text 1)" lost
}

@test "clearing a stall lets go what it holds; a server that stops fails what is held" {
  ok pv-fault add --disk d stall --op write --id hold
  put 2 kept >/dev/null &
  ok pv-fault wait hold --disk d
  ok pv-fault clear hold --disk d
  wait
  assert_equal "$(text 2)" kept
  ok pv-fault add --disk d stall --op write --id hold
  put 3 gone >answer 2>&1 &
  ok pv-fault wait hold --disk d
  ok pv-disk close d
  wait || true
  grep -q ESHUTDOWN answer
}

@test "wait ends when the rule has fired, or with class 6, or when the rule is cleared" {
  ok pv-fault add --disk d eio_read
  expect_error timeout 6 pv-fault wait eio_read --disk d --timeout 50ms
  pv-fault wait eio_read --hits 2 --disk d -o fired >waited &
  pv-disk read d >/dev/null 2>&1 || true
  pv-disk read d >/dev/null 2>&1 || true
  wait
  assert_equal "$(cat waited)" 2
  expect_error no_such_rule 4 pv-fault wait other --disk d
  ok pv-fault clear --disk d
  ok pv-fault add --disk d drop_flush --times 1 --id once
  expect_error invalid 4 pv-fault wait once --hits 2 --disk d
  pv-fault wait once --disk d --timeout 20s >waited 2>&1 &
  ok pv-fault clear --disk d
  wait || true
  grep -q no_such_rule waited
  ok bash -c 'pv-fault add --disk d error --op read --id again |
    { read -r rule; pv-disk read d >/dev/null 2>&1 || pv-fault wait <<<"$rule"; }'
  has '.rule.id == "eio_read" or .rule.id == "again"'
}

@test "assert is 1 when a rule has never fired, and names it" {
  expect_error no_such_rule 4 pv-fault assert --disk d
  ok pv-fault add --disk d eio_read
  ok pv-fault add --disk d drop_flush --id idle
  pv-disk read d >/dev/null 2>&1 || true
  run pv-fault assert --disk d
  assert_equal "$status" 1
  has '.verdict.never_fired == ["idle"] and .verdict.fired == ["eio_read"]'
  ok pv-fault assert eio_read --disk d
  has '.verdict.holds'
}

@test "a mark from the pipe, a mark from a write, and a state let rules begin and end" {
  ok pv-fault add --disk d error --op read --since go --until halt
  ok pv-fault add --disk d mark --content HALT --set name=halt
  ok pv-disk read d
  ok pv-fault mark go --disk d
  expect_error io 4 pv-disk read d
  ok put 5 HALT
  ok pv-disk read d
  ok pv-fault add --disk d error --op write --state broken
  ok put 6 x
  ok pv-fault state broken --disk d
  has '.state.name == "broken" and .state.marks.go == 1 and .state.marks.halt == 1'
  run put 6 x
  assert_equal "$status" 4
}

@test "clear --repair makes the disk what it would have been" {
  serve honest --memory 4M
  random_file image $((1 << 20))
  for kind in drop_write torn_write misdirect_write corrupt_write short late_write; do
    ok pv-fault add --disk d "$kind" --op write --every 2
  done
  for disk in d honest; do nbdcopy --request-size=4096 --requests=1 --connections=1 image "$(uri $disk)"; done
  run qemu-img compare -f raw -F raw "$(uri d)" "$(uri honest)"
  assert_equal "$status" 1
  ok pv-fault clear --disk d --repair
  has '.repair.damaged_bytes == 0 and .repair.not_kept_bytes == 0 and .repair.repaired_bytes > 0'
  run qemu-img compare -f raw -F raw "$(uri d)" "$(uri honest)"
  assert_success
}

@test "a journal is a trace: the same requests again give the same journal, byte for byte" {
  serve again --memory 4M
  for disk in d again; do
    pv-fault add --disk $disk corrupt_read --seed 7 --id c >/dev/null
    pv-fault add --disk $disk torn_write --set keep=random --seed 8 --id t >/dev/null
  done
  for i in {1..40}; do
    qio d "write -P $i $((i * 8192)) 4096" "read $((i * 7 % 40 * 8192)) 2048" >/dev/null
  done
  pv-fault journal --disk d --stable | command jq -c 'select(.event).event | del(.connection)' >first
  [ "$(wc -l <first)" -eq 80 ]
  jq -r '"\(.op) \(.offset_bytes) \(.length_bytes)"' first | while read -r op offset length; do
    [ "$op" = read ] && qio again "read $offset $length" || qio again "write $offset $length"
  done >/dev/null
  pv-fault journal --disk again --stable | command jq -c 'select(.event).event | del(.connection)' >second
  diff first second
}

@test "the journal is followed as it grows, and ends with a summary when the disk is closed" {
  ok pv-fault add --disk d eio_read
  pv-fault journal --disk d --follow >followed &
  for i in 1 2 3; do pv-disk read d >/dev/null 2>&1 || true; done
  until_true awk 'END { exit NR < 3 }' followed
  ok pv-disk close d
  wait
  assert_equal "$(jq -s '[.[] | select(.event).event.n]' -c followed)" '[1,2,3]'
  assert_equal "$(tail -n 1 followed | jq .summary.events)" 3
}

@test "a follower of a server that dies gets no summary, and the class says so" {
  ok pv-fault add --disk d eio_read
  (pv-fault journal --disk d --follow >followed 2>said || echo "class $?" >>said) &
  pv-disk read d >/dev/null 2>&1 || true
  until_true test -s followed
  kill -KILL "$(pv-disk info d -o pid)"
  wait
  grep -q 'class 4' said
  ! grep -q summary followed
}

@test "a word at the start of any sector of a write is seen" {
  ok pv-fault add --disk d mark --content MAGIC --set name=go
  { head -c 2048 /dev/zero; printf MAGIC; head -c 2043 /dev/zero; } >mark
  qio d "write -s mark 48k 4k" >/dev/null
  ok pv-fault state --disk d -o marks.go
  assert_output 1
  qio d "write -P 7 48k 4k" >/dev/null
  ok pv-fault list --disk d -o fired
  assert_output 1
}

@test "a discard that makes zeroes is repaired when it was dropped" {
  qio d "write -P 7 0 8k" >/dev/null
  ok pv-fault add --disk d drop_write
  qemu-io -f raw -d unmap -c "discard 0 4k" "$(uri d)" >/dev/null
  ok pv-fault clear --repair --disk d
  has '.repair.repaired_bytes == 4096'
  qio d "read -P 0 0 4k" "read -P 7 4k 4k" >seen
  ! grep -q failed seen
}

@test "the journal stays within its bound and counts what has gone; counters stay right" {
  serve small --memory 4M --layer fault:journal=1M
  ok pv-fault add --disk small error --op read --id e
  fio --name=t --ioengine=nbd --uri="$(uri small)" --rw=randread --bs=512 --iodepth=16 \
    --size=4M --continue_on_error=all --output=/dev/null
  ok pv-fault list --disk small -o fired
  local fired=$output
  [ "$fired" -ge 6000 ] # or nothing is gone yet
  ok pv-fault journal --disk small
  has ".summary.last == $fired and .summary.dropped + .summary.events == $fired"
  has '.summary.dropped > 0'
  local bytes
  bytes=$(cat "$PV_RUN_DIR"/obj/*/faults-*.jsonl | wc -c)
  [ "$bytes" -le $((1280 << 10)) ]
}

@test "a journal that cannot be written says so, and the rules go on counting" {
  (ulimit -f 200 && serve full --memory 4M)
  ok pv-fault add --disk full error --op read --id e
  fio --name=t --ioengine=nbd --uri="$(uri full)" --rw=randread --bs=512 --iodepth=16 \
    --size=4M --continue_on_error=all --output=/dev/null
  ok pv-fault list --disk full -o fired
  local fired=$output
  ok pv-fault journal --disk full
  has ".summary.error == \"EFBIG\" and .summary.dropped > 0 and .summary.last == $fired"
}

@test "a power cut ends what is held, and what would have landed late does not" {
  serve c --memory 1M --layer cache
  ok pv-fault add --disk c stall --op flush --id hold
  ok pv-fault add --disk c late_write --set after_ms=300 --id late
  ok bash -c 'echo late | pv-disk write c --sector 1'
  qio c 'flush' >/dev/null 2>&1 &
  ok pv-fault wait hold --disk c
  ok pv-fault power-cut --disk c --timeout 20s
  wait || true
  ok pv-fault held --disk c
  assert_output ''
  ok pv-fault clear --disk c
  sleep 0.5 # past the time at which it would have landed
  assert_equal "$(pv-disk read c --sector 1 --raw | tr -d '\0')" ''
}
