#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a guest does not meet a kind of fault, or not in the way that pv-faults(7) says.

load helper
load helper_shared
teardown() { unplug_all; }

# What busybox dd says of a read or an fsync, and of a write.
k_eio='dd: /dev/vda: Input/output error'
k_write_eio="dd: error writing '/dev/vda': Input/output error"

# plug_vda FLAGS…: a disk with an 'o' in each byte of 1 MiB.
plug_vda() {
  head -c 1M /dev/zero | tr '\0' o >t.img
  plug vda --image t.img "$@"
}

guest() { pv-vm run v --raw --timeout 60s -- sh -c "$1"; }
rule() { pv-fault add --disk vda "$@" </dev/null >/dev/null; }
clear() { pv-fault clear --disk vda </dev/null >/dev/null; }

# put LETTER BLOCK: 4 KiB of it, past the guest's page cache (whose dd is direct from 4 KiB on).
put() {
  guest "tr '\\0' $1 </dev/zero | dd of=/dev/vda bs=4k seek=$2 count=1 iflag=fullblock oflag=direct 2>&1"
}

# get BLOCK: the first letter of each of its eight sectors, '.' for zero.
get() {
  guest "dd if=/dev/vda bs=4k skip=$1 count=1 iflag=direct 2>/dev/null | tr '\\0' . |
    fold -w 512 | cut -c 1 | tr -d '\\n'"
}

# read_until_error: how many bytes the guest's dd gets, and what it says in the end.
read_until_error() {
  guest 'dd if=/dev/vda of=/tmp/got bs=4k iflag=direct 2>&1; wc -c </tmp/got'
}

@test "errors: whatever errno is asked for, the guest's dd says Input/output error" {
  plug_vda
  local names=(EIO EPERM ENOMEM EINVAL ENOSPC EOVERFLOW ENOTSUP ESHUTDOWN EROFS EBADE EDQUOT EFBIG
    ERANGE ETIMEDOUT ENODEV EBUSY EAGAIN) i
  for i in "${!names[@]}"; do
    printf '{"match":{"op":["read","write"],"ranges":[[%d,4096]]},"do":{"kind":"error","errno":"%s"}}\n' \
      $((i * 4096)) "${names[i]}"
  done | pv-fault add --disk vda --rules - >/dev/null
  ok guest "n=0; while [ \$n -lt ${#names[@]} ]; do
      dd if=/dev/vda of=/dev/null bs=4k skip=\$n count=1 iflag=direct 2>&1 | grep '^dd:'
      dd if=/dev/zero of=/dev/vda bs=4k seek=\$n count=1 oflag=direct 2>&1 | grep '^dd:'
      n=\$((n + 1))
    done"
  assert_equal "$(sort <<<"$output" | uniq -c | sed 's/^ *//')" \
    "${#names[@]} $k_eio"$'\n'"${#names[@]} $k_write_eio"
  assert_equal "$(pv-fault journal --disk vda </dev/null |
    jq -r '.event | select(.op == "write") | .requested' | uniq | xargs)" "${names[*]}"
  run get "${#names[@]}"
  assert_output oooooooo
}

@test "bad sectors, a smaller disk, read-only, gone, failed but written" {
  plug_vda
  rule medium --sector 100 --heal
  run read_until_error
  assert_line --index 0 "$k_eio"
  assert_line --index 1 49152
  run put h 12
  assert_output --partial '1+0 records out'
  run read_until_error
  assert_line 1048576

  rule capacity --set size_bytes=524288
  run read_until_error
  assert_line --index 0 "$k_eio"
  assert_line --index 1 524288
  clear

  rule read_only
  run put n 0
  assert_line "$k_write_eio"
  run get 0
  assert_output oooooooo
  clear

  rule gone --op write --nth 1
  run get 0
  assert_output oooooooo
  run put n 0
  assert_line "$k_write_eio"
  run read_until_error
  assert_line --index 0 "$k_eio"
  assert_line --index 1 0
  clear
  run get 0
  assert_output oooooooo

  rule fail_written --op write
  run put n 0
  assert_line "$k_write_eio"
  clear
  run get 0
  assert_output nnnnnnnn
}

# timed COMMANDS: how many milliseconds they take by the guest's own clock.
timed() {
  guest "read a b </proc/uptime; $1; read c d </proc/uptime
    echo \"\$a \$c\" | awk '{ printf \"%d\", (\$2 - \$1) * 1000 + 0.5 }'"
}

@test "time: the guest's clock sees delay, rate and jitter; what is held ends when it is released" {
  plug_vda
  rule delay --delay 300ms --op read
  run timed 'dd if=/dev/vda of=/dev/null bs=4k count=2 iflag=direct 2>/dev/null'
  ((output >= 590))
  clear
  rule rate --set iops=10
  run timed 'dd if=/dev/zero of=/dev/vda bs=4k count=6 oflag=direct 2>/dev/null'
  ((output >= 390))
  clear
  rule jitter --op read --set distribution=uniform --set min_ms=100 --set max_ms=200 --seed 2
  run timed 'dd if=/dev/vda of=/dev/null bs=4k count=3 iflag=direct 2>/dev/null'
  ((output >= 290))
  clear

  local error reader status
  for error in '' EIO; do
    rule stall --op read --id held
    guest 'dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct 2>&1' >said &
    reader=$!
    ok pv-fault wait held --disk vda --timeout 20s
    ok pv-fault held --disk vda
    assert_equal "$(jq -r '.held | select(.) | .op' <<<"$output")" read
    kill -0 "$reader"
    assert_equal "$(cat said)" ''
    # The guest does not stand still meanwhile, and other requests are served.
    run put x 5
    assert_output --partial '1+0 records out'
    ok pv-fault release --disk vda ${error:+--error "$error"}
    status=0
    wait "$reader" || status=$?
    assert_equal "$status" "$([ -z "$error" ] && echo 0 || echo 1)"
    if [ -n "$error" ]; then grep -qx "$k_eio" said; else grep -qF '1+0 records out' said; fi
    clear
  done

  rule reorder --set depth=4 --seed 3
  run guest 'head -c 262144 /dev/urandom >/tmp/r; dd if=/tmp/r of=/dev/vda bs=4k conv=fsync 2>/dev/null || exit 7
    echo 3 >/proc/sys/vm/drop_caches; head -c 262144 /dev/vda | cmp - /tmp/r && echo same'
  assert_output same
}

@test "lies about writes: dropped, torn, elsewhere, damaged, half, late and twice" {
  plug_vda
  rule drop_write
  run put n 1
  assert_output --partial '1+0 records out'
  clear
  rule torn_write --set keep=first --set units=3
  put n 2
  clear
  rule misdirect_write --set to_bytes=65536
  put n 3
  clear
  rule corrupt_write --set pattern=zeroes --set at=512 --set length_bytes=1024
  put n 4
  clear
  rule short --op write --set bytes=2048
  put n 5
  clear
  ok guest 'for b in 1 2 3 16 4 5; do dd if=/dev/vda bs=4k skip=$b count=1 iflag=direct 2>/dev/null |
    tr "\0" . | fold -w 512 | cut -c 1 | tr -d "\n"; echo; done'
  assert_output $'oooooooo\nnnnooooo\noooooooo\nnnnnnnnn\nn..nnnnn\nnnnnoooo'
  # The host sees the same.
  assert_equal "$(pv-disk read vda --offset 16k --length 4k --raw </dev/null | tr '\0' . |
    fold -w 512 | cut -c 1 | tr -d '\n')" n..nnnnn

  local kind
  for kind in late_write duplicate_write; do
    rule "$kind" --set after_ms=3000 --nth 1
    # One right after the other; the first lands over the second.
    guest 'for letter in a b; do tr "\0" $letter </dev/zero |
      dd of=/dev/vda bs=4k seek=6 count=1 iflag=fullblock oflag=direct 2>/dev/null; done'
    landed() { [ "$(pv-disk read vda --sector 48 --raw </dev/null | head -c 1)" = a ]; }
    until_true landed
    run get 6
    assert_output aaaaaaaa
    clear
    put o 6
  done
}

@test "lies about reads: from elsewhere, damaged, old, half; cleared, they leave nothing behind" {
  plug_vda
  put n 9
  rule misdirect_read --range 32k+4k --set shift_bytes=4096
  run get 8
  assert_output nnnnnnnn
  rule corrupt_read --range 40k+4k --set pattern=bit --seed 5
  run guest 'dd if=/dev/vda bs=4k skip=10 count=1 iflag=direct 2>/dev/null | tr -d o | wc -c'
  assert_output 1
  rule stale_read --range 44k+4k
  put n 11
  run get 11
  assert_output oooooooo
  rule short --op read --range 48k+4k --set bytes=1024
  run get 12
  assert_output oo......
  clear
  ok guest 'dd if=/dev/vda bs=4k skip=8 count=5 iflag=direct 2>/dev/null |
    fold -w 4096 | tr -s on | tr -d "\n"'
  assert_output onono
}

@test "power: at a flush of the guest the cache is lost, and all fails until the rule is cleared" {
  plug_vda --layer cache
  run guest 'tr "\0" f </dev/zero | dd of=/dev/vda bs=4k count=1 iflag=fullblock conv=fsync 2>/dev/null'
  assert_success
  rule power_cut --op flush
  put n 1
  run get 1
  assert_output nnnnnnnn
  run guest 'dd if=/dev/zero of=/dev/vda bs=4k seek=2 count=1 conv=fsync 2>&1'
  assert_failure
  assert_line "$k_eio"
  run read_until_error
  assert_line --index 1 0
  clear
  run get 0
  assert_output ffffffff
  run get 1
  assert_output oooooooo
  run get 2
  assert_output oooooooo
}

@test "marks: a sector that the guest writes arms the rule that waits for it" {
  plug_vda
  rule mark --content 'FAIL NOW' --set name=now
  rule error --op read --since now
  run get 0
  assert_output oooooooo
  put F 1
  run get 0
  assert_output oooooooo
  ok guest '{ echo FAIL NOW; cat /dev/zero; } |
    dd of=/dev/vda bs=4k seek=7 count=1 iflag=fullblock oflag=direct 2>/dev/null'
  run read_until_error
  assert_line --index 0 "$k_eio"
  assert_line --index 1 0
  run pv-fault state --disk vda -o marks.now
  assert_output 1
}
