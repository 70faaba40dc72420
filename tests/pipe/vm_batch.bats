#!/usr/bin/env bats
# Many documents, or names, at once: each has its answer, one that is bad spoils no other unless
# that was wanted, and all of it is bounded.

load helper

setup() {
  pv_setup
  bare_profile
}
teardown() { pv_teardown; }

# create VM…: of them `a` has a guest to wait for.
create() {
  local name
  for name; do if [ "$name" = a ]; then pv-vm create a; else pv-vm create "$name" --profile bare; fi; done
}
no_qemu() { ! pgrep -f "qemu-system.*$PV_RUN_DIR" >/dev/null; }
states() { pv-vm list -o state | sort | uniq -c | awk '{ printf "%s%s ", $1, $2 }'; }

@test "boot of many: a document for each as it is ready, with the keys that came in" {
  need_guest
  create a b c d | jq -c '.note = "for " + .vm.name' >docs
  echo '{"v":1,"vm":{"name":"e"},"error":{"code":"io","message":"earlier","errno":"EIO"}}' >>docs
  run -4 --separate-stderr pv-vm boot --in docs
  assert_equal "$stderr" ''
  assert_equal "$(jq -sc '[.[] | select(.vm.state == "booted") | .note] | sort' <<<"$output")" \
    '["for a","for b","for c","for d"]'
  assert_equal "$(jq -c 'select(.error) | .error.code' <<<"$output")" '"io"'
  # By name, of which two do not boot; close takes as many as it gets.
  create f >/dev/null
  run -4 --separate-stderr pv-vm boot f a nosuch --jobs 1
  assert_equal "$(jq -sc '[.[] | [.vm.name, .error.code]] | sort' <<<"$output")" \
    '[["a","wrong_state"],["f",null],["nosuch","no_such_vm"]]'
  assert_equal "${#stderr_lines[@]}" 2
  run -0 bash -c 'pv-vm list | pv-vm close -o closed | sort | uniq -c | tr -s " "'
  assert_output ' 5 true'
}

@test "boot --atomic: all or none, and none is anything but what it was" {
  need_guest
  create a b c >/dev/null
  # One that cannot: nothing starts.
  run -4 --separate-stderr pv-vm boot --atomic a b nosuch
  assert_equal "$(jq -sc '[.[].error.code]' <<<"$output")" '["aborted","aborted","no_such_vm"]'
  assert_equal "$(states)" '3created '
  run -2 --separate-stderr pv-vm boot --atomic a b a
  assert_equal "$(states)" '3created '
  # One that fails when the others have begun, or have booted.
  pv-vm create bad --qemu-arg -no-such-flag >/dev/null
  run -4 --separate-stderr pv-vm boot --atomic --jobs 1 b bad a
  assert_equal "$(jq -sc '[.[].error.code]' <<<"$output")" '["aborted","guest_died","aborted"]'
  assert_equal "$(states)" '4created '
  run -1 pgrep -af "qemu-system.*$PV_RUN_DIR"
  # And one that was booted before.
  run -0 pv-vm boot --atomic a b -o state
  assert_output $'booted\nbooted'
  run -4 --separate-stderr pv-vm boot --atomic a c
  assert_equal "$(jq -sc '[.[].error.code]' <<<"$output")" '["wrong_state","aborted"]'
  assert_equal "$(states)" '2booted 2created '
}

@test "boot of many interrupted leaves nothing running" {
  need_guest
  pv-vm create a >/dev/null
  pv-vm create b >/dev/null
  for how in '' --atomic; do
    pv-vm boot a b $how >/dev/null 2>&1 &
    booting=$!
    until [ "$(ls "$PV_RUN_DIR"/obj/*/sup.sock 2>/dev/null | wc -l)" = 2 ]; do sleep 0.02; done
    kill -TERM "$booting"
    wait "$booting" || true
    until_true no_qemu
    assert_equal "$(states)" '2created '
  done
}

@test "one bad document among good ones is an error in its place" {
  create a b >good
  for bad in '{' '[]' '{"v":2}' '{"v":1,"v":1}' '{"v":1,"vm":{"name":"../x"}}' '{"v":1}' 'x' \
    "$(printf '\377\376')" '{"v":1,"vm":[]}'; do
    { sed -n 1p good; printf '%s\n\n' "$bad"; sed -n 2p good; } >docs
    run --separate-stderr pv-vm close --in docs
    [[ "$status" = 3 || "$status" = 2 ]] || { echo "$bad: $status $output"; false; }
    assert_equal "$(wc -l <<<"$stderr")" 1
    assert_equal "$(jq -sc '[.[] | .error == null]' <<<"$output")" '[true,false,true]'
    run --separate-stderr pv-vm boot --in docs
    [[ "$status" -ne 0 ]]
    assert_equal "$(jq -s length <<<"$output")" 3
  done
}

@test "odd input of 4 KiB and too many documents are one line each" {
  head -c 4096 /dev/urandom >random
  head -c 4096 /dev/zero >zeros
  printf '{%.0s' {1..4096} >nested
  yes | head -c 4096 >words
  yes '' | head -c 4096 >lines
  yes '{"v":1,"vm":{"name":"x"}}' | head -n 1025 >many
  for odd in random zeros nested words lines many; do
    for verb in boot close; do
      run -3 --separate-stderr pv-vm $verb --in $odd
      assert_equal "$(wc -l <<<"$stderr")" 1
      has '.error.code == "bad_document"'
    done
  done
  # A verb of one document says so, and one document of many lines is still one.
  create a b >two
  run -3 --separate-stderr pv-vm argv --in two
  assert_equal "$(wc -l <<<"$stderr")" 1
  pv-vm create c --json=pretty | pv-vm close >/dev/null
  run -2 --separate-stderr pv-vm boot a --jobs 0
  run -0 pv-vm list -o name
  assert_output $'a\nb'
}
