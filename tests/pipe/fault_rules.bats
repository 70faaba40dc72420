#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a rule fires at other requests than the ones it names, or the journal tells
# something else than what happened.

load helper
setup() {
  pv_setup
  serve d --scratch 1M
}
teardown() { pv_teardown; }

# outcomes COUNT: reads sector 0 so often; prints one letter for each, E for an injected error.
outcomes() {
  local i out=''
  for ((i = 0; i < $1; i++)); do
    if pv-disk read d </dev/null >/dev/null 2>&1; then out+=.; else out+=E; fi
  done
  echo "$out"
}

@test "--nth fires once, at that request" {
  ok pv-fault add --disk d error --op read --nth 3
  has '.rule.when.after == 2 and .rule.when.times == 1 and .rule.left == 1'
  assert_equal "$(outcomes 5)" ..E..
}

@test "--after, --every and --times combine" {
  ok pv-fault add --disk d error --op read --after 2 --every 3 --times 2
  assert_equal "$(outcomes 12)" ....E..E....
  ok pv-fault list --disk d
  has '.rule.matched == 12 and .rule.fired == 2 and .rule.left == 0'
}

@test "--range touches what overlaps it, by a byte at either end, and nothing else" {
  ok pv-fault add --disk d error --range 4096+512 --range 8k+1
  ok pv-disk read d --sector 7
  expect_error io 4 pv-disk read d --sector 8
  ok pv-disk read d --sector 9
  expect_error io 4 pv-disk read d --sector 0 --count 9
  expect_error io 4 pv-disk read d --sector 16
  ok pv-disk read d --sector 9 --count 7
}

@test "--sector counts in the disk's own sectors" {
  serve big --scratch 1M --sector-size 4096
  ok pv-fault add --disk big error --sector 2+2
  has '.rule.match.ranges == [[8192,8192]]'
  ok pv-disk read big --sector 1
  expect_error io 4 pv-disk read big --sector 3
}

@test "--op picks the operation: flush, discard and zero fail alone" {
  local op args
  for op in flush discard zero; do
    ok pv-fault add --disk d error --op "$op" --errno ENOSPC
    args=()
    [ "$op" = flush ] || args=(--count 8)
    expect_error io 4 pv-disk "$op" d "${args[@]}"
    has '.error.errno == "ENOSPC"'
    ok pv-disk read d
    ok pv-fault clear --disk d
    ok pv-disk "$op" d "${args[@]}"
  done
}

@test "a probability decides by its seed alone: the same seed gives the same journal" {
  local first second other
  ok pv-fault add --disk d error --id p --op read --probability 0.5 --seed 7
  first=$(outcomes 24)
  ok pv-fault clear --disk d
  ok pv-fault add --disk d error --id p --op read --probability 0.5 --seed 7
  second=$(outcomes 24)
  assert_equal "$first" "$second"
  [[ $first == *E* && $first == *.* ]]
  ok pv-fault clear --disk d
  ok pv-fault add --disk d error --id p --op read --probability 0.5 --seed 8
  other=$(outcomes 24)
  assert [ "$first" != "$other" ]
}

@test "the journal says what was requested and what was delivered, to the host as it is" {
  ok pv-fault add --disk d error --op write --errno EROFS
  expect_error io 4 bash -c 'printf x | pv-disk write d'
  ok pv-fault journal --disk d
  assert [ "${#lines[@]}" -eq 2 ]
  local event=${lines[0]}
  has '.event | .n == 1 and .rule == "r1" and .kind == "error"' "$event"
  has '.event | .op == "write" and .front == "host"' "$event"
  has '.event | .requested == "EROFS" and .delivered == "EROFS" and .io_done == false' "$event"
  has '.event | .offset_bytes == 0 and .length_bytes == 512' "$event"
  has '.summary | .events == 1 and .last == 1 and .dropped == 0'
}

@test "the journal records what NBD can carry: eight codes, everything else is EIO" {
  local pair
  for pair in EIO=EIO EPERM=EPERM ENOMEM=ENOMEM EINVAL=EINVAL ENOSPC=ENOSPC EOVERFLOW=EOVERFLOW \
    ENOTSUP=ENOTSUP ESHUTDOWN=ESHUTDOWN EROFS=EPERM EDQUOT=ENOSPC EFBIG=ENOSPC \
    ETIMEDOUT=EIO ENODEV=EIO EBUSY=EIO EREMOTEIO=EIO; do
    ok pv-fault add --disk d error --op read --errno "${pair%=*}"
    run qio d 'read 0 512'
    assert_output --partial 'failed'
    ok pv-fault journal --disk d
    assert_equal "$(jq -sr '[.[] | select(.event).event][-1]
      | "\(.front) \(.requested) \(.delivered)"' <<<"$output")" "nbd ${pair%=*} ${pair#*=}"
    ok pv-fault clear --disk d
  done
}

@test "journal --since gives only what is newer" {
  ok pv-fault add --disk d eio_read
  outcomes 5 >/dev/null
  ok pv-fault journal --disk d --since 3
  assert_equal "$(jq 'select(.event).event.n' <<<"$output" | xargs)" '4 5'
  ok pv-fault journal --disk d --since 99
  has '.summary.events == 0 and .summary.last == 5'
  expect_error usage 2 pv-fault journal --disk d --since -1
}

@test "counters, journal and the errors that clients saw agree" {
  ok pv-fault add --disk d error --op read --every 2
  local seen
  seen=$(outcomes 10 | tr -cd E | wc -c)
  ok pv-fault list --disk d
  has ".rule.fired == $seen"
  ok pv-fault journal --disk d
  has ".summary.events == $seen"
  ok pv-disk stats d
  has ".disk.stats | .io_errors == $seen and .read.errors == $seen and .read.completed == 5"
}

@test "rules that could never fire are refused" {
  expect_error bad_rule 2 pv-fault add --disk d error --times 0
  expect_error bad_rule 2 pv-fault add --disk d error --every 0
  expect_error bad_rule 2 pv-fault add --disk d error --nth 0
  expect_error bad_rule 2 pv-fault add --disk d error --probability 0
  expect_error bad_rule 2 pv-fault add --disk d error --probability 1.5
  expect_error bad_rule 2 pv-fault add --disk d error --range 4k+0
  expect_error bad_rule 2 pv-fault add --disk d error --range 1M+512
  expect_error bad_rule 2 pv-fault add --disk d error --op flush --range 0+512
  expect_error bad_rule 2 pv-fault add --disk d delay
  expect_error bad_rule 2 pv-fault add --disk d delay --delay 0s
  expect_error bad_rule 2 pv-fault add --disk d error --op reed
  expect_error bad_rule 2 pv-fault add --disk d error --errno EWRONG
  expect_error bad_rule 2 pv-fault add --disk d error --seed seven --probability 0.5
  ok pv-fault list --disk d
  assert_output ''
}

@test "flags that contradict each other or are no numbers are usage errors" {
  expect_error usage 2 pv-fault add --disk d error --nth 2 --times 1
  expect_error usage 2 pv-fault add --disk d error --times many
  expect_error usage 2 pv-fault add --disk d error --range 4k
  expect_error usage 2 pv-fault add --disk d error --range x+1
  expect_error usage 2 pv-fault add --disk d error --sector 18446744073709551615
  expect_error usage 2 pv-fault add --disk d error --sector 9000000000000000000+2
  expect_error usage 2 pv-fault add --disk d error --probability half
  expect_error usage 2 pv-fault add --disk d delay --delay soon
  expect_error usage 2 pv-fault add --disk d eio_read --rule '{}'
  expect_error usage 2 pv-fault add --disk d
}

@test "bad rule documents are refused, each with its reason, and none is kept" {
  local rule
  for rule in '' '{' '[]' '7' '"x"' '{}' '{"do":7}' '{"do":{"kind":"error","colour":1}}' \
    '{"do":{"kind":"error"},"do":{"kind":"error"}}' '{"do":{"kind":"error"},"wen":{}}' \
    '{"do":{"kind":"error","errno":5}}' '{"do":{"kind":"error"},"id":7}' \
    '{"do":{"kind":"error"},"id":"../x"}' '{"do":{"kind":"error"},"match":7}' \
    '{"do":{"kind":"error"},"match":{"op":"read"}}' '{"do":{"kind":"error"},"match":{"op":["x"]}}' \
    '{"do":{"kind":"error"},"match":{"ranges":[[0]]}}' \
    '{"do":{"kind":"error"},"match":{"ranges":[[-1,5]]}}' \
    '{"do":{"kind":"error"},"match":{"ranges":[[0,1.5]]}}' \
    '{"do":{"kind":"error"},"match":{"ranges":7}}' \
    '{"do":{"kind":"error"},"match":{"ranges":[[18446744073709551615,2]]}}' \
    '{"do":{"kind":"error"},"when":{"after":-1}}' '{"do":{"kind":"error"},"when":{"times":"3"}}' \
    '{"do":{"kind":"error"},"when":{"seed":"-1"}}' \
    '{"do":{"kind":"error"},"when":{"seed":"99999999999999999999"}}' \
    '{"do":{"kind":"delay","delay_ms":-5}}' '{"do":{"kind":"delay","delay_ms":1e99}}'; do
    run --separate-stderr pv-fault add --disk d --rule "$rule" </dev/null
    [ "$status" -eq 2 ] || fail "$rule: exit $status: $stderr"
    [ "${#stderr_lines[@]}" -eq 1 ] || fail "$rule: $stderr"
    [ -z "$rule" ] || has '.error.code == "bad_rule"'
  done
  expect_error bad_mode 2 pv-fault add --disk d --rule '{"do":{"kind":"explode"}}'
  ok pv-fault list --disk d
  assert_output ''
}
