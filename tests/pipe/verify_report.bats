#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If these fail, the verdict on a disk that was compared is wrong, or people cannot see why: on a
# terminal, and in a browser.

load helper
setup() { pv_setup; }
teardown() { pv_teardown; }

# damaged: a mirror `m` whose tested leg has lost a write at 64k by rule, and has a byte that somebody
# else has changed at 200000.
damaged() {
  truncate -s 1M a.img
  truncate -s 1M b.img
  pv-disk serve m --image a.img --layer mirror:with=b.img --layer fault </dev/null >/dev/null
  qio m 'write -P 1 0 512k' 'flush'
  pv-fault add drop_write --disk m --op write --range 64k+64k --id lost </dev/null >/dev/null
  qio m 'write -P 2 64k 4k' 'flush'
  printf x | dd of=a.img bs=1 seek=200000 conv=notrunc status=none
  qio m 'read 64k 4k' 'read 192k 16k'
}

@test "report: a disk that is as it should be is good" {
  truncate -s 1M a.img
  truncate -s 1M b.img
  ok pv-disk serve m --image a.img --layer mirror:with=b.img --layer fault
  qio m 'write -P 1 0 64k' 'read -P 1 0 64k'
  ok pv-verify report --disk m
  has '.report | .verdict == "good" and .mismatches == 0 and .first == null and .ranges == []'
  ok pv-disk serve d --memory 1M
  expect_error unsupported 4 pv-verify report --disk d
}

@test "report: what a fault explains and what nothing explains" {
  damaged
  run --separate-stderr pv-verify report --disk m
  [ "$status" -eq 1 ]
  has '.report | .verdict == "damaged" and .mismatches == 2 and .explained == 1 and .unexplained == 1'
  has '.report | .by_class.stale == 1 and .by_rule == {"lost": 1} and .faults == 1'
  has '.report.ranges == [{"offset_bytes": 65536, "length_bytes": 4096, "mismatches": 1},
    {"offset_bytes": 200000, "length_bytes": 1, "mismatches": 1}]'
  has '.report.first | .class == "stale" and .rules == ["lost"] and .ranges[0].offset_bytes == 65536'
  has '.report.last_writers | length == 2'
}

@test "report: everything explained is told apart" {
  truncate -s 1M a.img
  truncate -s 1M b.img
  pv-disk serve m --image a.img --layer mirror:with=b.img --layer fault </dev/null >/dev/null
  ok pv-fault add drop_write --disk m --id lost
  qio m 'write -P 2 64k 4k' 'read 64k 4k'
  run --separate-stderr pv-verify report --disk m
  [ "$status" -eq 1 ]
  has '.report | .verdict == "explained" and .mismatches == 1 and .by_rule.lost == 1'
}

@test "report: on a terminal, with both excerpts side by side and stars before what differs" {
  damaged
  run pv-verify report --disk m --text
  [ "$status" -eq 1 ]
  assert_line --partial 'm: damaged'
  assert_line --partial 'faults       lost'
  assert_line --partial 'faults       none explains it'
  refute_line --partial '*01'
  run pv-verify report --disk m --hex
  [ "$status" -eq 1 ]
  assert_line --regexp '^  000000010000 \*01\*01.*\|\.{8}\|  \*02\*02.*\|\.{8}\|$'
  # 200000 is 0x30d40: one byte of the line differs.
  assert_line --regexp '^  000000030d40 \*78 01 01.*\|x\.{7}\|  \*01 01 01.*\|\.{8}\|$'
}

@test "report: the page of HTML, as a browser shows it" {
  command -v chromium >/dev/null || skip 'needs chromium'
  damaged
  run --separate-stderr pv-verify report --disk m --html r.html
  [ "$status" -eq 1 ]
  has ".report.html == \"$PWD/r.html\""
  # Nothing is fetched from anywhere.
  run grep -Eo '(src|href)=|url\(|https?:|@import' r.html
  [ "$output" = '' ]
  timeout -k 5 180 chromium --headless --no-sandbox --disable-gpu --user-data-dir="$PWD/profile" \
    --dump-dom "file://$PWD/r.html" >dom.html 2>/dev/null 3>&-
  grep -q '<span id="disk">m</span><span id="verdict" class="damaged">damaged</span>' dom.html
  [ "$(grep -o '<tr [^>]*class="case[^"]*"' dom.html | wc -l)" -eq 2 ]
  # The details of the first: rule, last writer, marked bytes.
  grep -q '<tr><th>Faults</th><td>lost</td></tr>' dom.html
  grep -Eq '<tr><th>Last writer, test</th><td>request [0-9]+, write 65536\+4096' dom.html
  grep -q '<mark>01</mark>' dom.html
  [ "$(grep -o '<div class="bad"' dom.html | wc -l)" -eq 5 ]
  [ "$(grep -o '<span class="mismatch"' dom.html | wc -l)" -eq 2 ]
  [ "$(grep -o '<span class="fault"' dom.html | wc -l)" -eq 1 ]
}

@test "report: statuses that differ are told with request, range and both ends" {
  truncate -s 1M a.img
  pv-disk serve r --memory 1M </dev/null >/dev/null
  pv-verify mirror m --test a.img --reference "$(uri r)" </dev/null >/dev/null
  qio m 'write -P 1 0 4k'
  slay "$(pv-disk info r -o pid </dev/null)"
  qio m 'write -P 2 64k 4k' 'flush' || true
  run pv-verify report --disk m --hex
  [ "$status" -eq 1 ]
  assert_line --regexp '^statuses     [1-9][0-9]* differ'
  assert_line --regexp '^ +[0-9]+ +[0-9]+ write +65536\+4096 +OK +E[A-Z]+ +-$'
  run --separate-stderr pv-verify report --disk m --html -
  [ "$status" -eq 1 ]
  [ ! -e - ]
  [ "${lines[0]}" = '<!DOCTYPE html>' ]
  [ "${lines[-1]}" = '</html>' ]
  printf '%s\n' "$output" >r.html
  sed -n 's/^.*id="data">\(.*\)<\/script>$/\1/p' r.html >data.json
  jq -e '.statuses | length >= 1 and any(.op == "write" and .offset_bytes == 65536
    and .length_bytes == 4096 and .number > 0 and .test == "OK" and (.reference | startswith("E")))' data.json
  expect_error usage 2 pv-verify report --disk m --html - --hex
  command -v chromium >/dev/null || return 0
  timeout -k 5 180 chromium --headless --no-sandbox --disable-gpu --user-data-dir="$PWD/profile" \
    --dump-dom "file://$PWD/r.html" >dom.html 2>/dev/null 3>&-
  grep -Eq '<tr class="status">.*<td>write</td><td>65536\+4096</td><td>OK</td><td>E[A-Z]+</td>' dom.html
}

@test "a field of one kind of lines leaves the others out and the exit status alone" {
  damaged
  run --separate-stderr pv-verify findings --disk m -o summary.good
  [ "$status $output" = '1 false' ]
  run --separate-stderr pv-verify findings --disk m -o finding.class
  [ "$status" -eq 1 ]
  [ "${#lines[@]}" -eq 2 ]
  ok pv-disk close m
  run --separate-stderr pv-verify compare a.img b.img -o summary.equal
  [ "$status $output" = '1 false' ]
  cp a.img same.img
  run --separate-stderr pv-verify compare a.img same.img -o summary.equal
  [ "$status $output" = '0 true' ]
  run --separate-stderr pv-verify compare a.img b.img -o range.offset_bytes
  [ "$status" -eq 1 ]
  [ "$output" = $'65536\n200000' ]
  truncate -s 64k f.img
  ok pv-verify fill f.img
  ok pv-verify check f.img -o summary.bad
  [ "$output" = 0 ]
  printf x | dd of=f.img bs=1 seek=9000 conv=notrunc status=none
  run --separate-stderr pv-verify check f.img -o summary.bad
  [ "$status $output" = '1 1' ]
  run --separate-stderr pv-verify check f.img -o bad.offset_bytes
  [ "$status $output" = '1 8192' ]
  truncate -s 64k d.img
  pv-verify record d.log --image d.img | pv-disk serve d >/dev/null
  qio d 'write 0 4k' 'flush'
  pv-verify mark here --disk d </dev/null >/dev/null
  ok pv-disk close d
  ok pv-verify log d.log -o summary.writes
  [ "$output" = 1 ]
  ok pv-verify log d.log -o entry.mark
  [ "$output" = here ]
  # No kind of line has it: said, and the verb has done its work all the same.
  run --separate-stderr pv-verify compare a.img b.img -o sumary.equal
  [ "$status" -eq 1 ]
  [ "$output" = '' ]
  [[ "$stderr" == *"no line has a field 'sumary.equal'"* ]]
}

@test "--html writes over a page of its own, and over nothing else" {
  truncate -s 1M t.img r.img
  pv-verify mirror m --test t.img --reference r.img </dev/null >/dev/null
  ok pv-verify report --disk m --html page.html
  chmod 600 page.html
  ok pv-verify report --disk m --html page.html
  assert_equal "$(stat -c %a page.html)" 600
  expect_error usage 2 pv-verify report --disk m --html r.img
  assert_equal "$(stat -c %s r.img)" 1048576
  head -c 4096 /dev/urandom >data
  sum=$(sha256sum <data)
  expect_error usage 2 pv-verify report --disk m --html data
  assert_equal "$(sha256sum <data)" "$sum"
  ln -s page.html link
  ok pv-verify report --disk m --html link
  [ -L link ]
  mkfifo pipe
  cat pipe >seen &
  ok pv-verify report --disk m --html pipe
  wait
  [ -p pipe ]
  assert_equal "$(head -c 15 seen)" '<!DOCTYPE html>'
}
