#!/usr/bin/env bats
# The helpers for shell tests and Makefiles, used from an installed tree as a user would: a test
# file of three lines, a failing test that shows its guest's console, a skip, a Makefile.

load helper

setup_file() {
  tree=$(mktemp -d "${PV_TMP:-/tmp}/i.XXXXXX")
  export tree
  make -s -C "$BATS_TEST_DIRNAME/../.." BUILD="${BUILD:-build}" DESTDIR="$tree" PREFIX=/usr install \
    MAKEFLAGS= >/dev/null
}
teardown_file() { rm -rf "$tree"; }

setup() {
  pv_setup
  export PATH="$tree/usr/bin:$PATH"
}
teardown() { pv_teardown; }

# test_file NAME: from stdin, where %test stands for what BATS would take for a test of this file.
test_file() { sed 's/^%test/@test/' >"$1"; }
# clean COMMAND…: without what this run of BATS has set, so that it can be one of its own.
clean() {
  local keep=BATS_LIB_PATH name unset=()
  for name in $(compgen -e BATS_); do [ "$name" = $keep ] || unset+=(-u "$name"); done
  env "${unset[@]}" PATH="${PATH//$BATS_LIBEXEC:/}" "$@"
}
inner() { run clean bats --tap "$@"; }
nothing_left() { [ -z "$(ls "$PV_RUN_DIR/obj" 2>/dev/null)" ]; }

@test "a test file of three lines: load, scope, test; the teardown comes by itself" {
  test_file three.bats <<'EOF'
load provium; setup() { pv_scope; }
%test "one" { pv-vm create v; pv-disk serve d --memory 1M; echo "$PV_SCOPE" >>scopes; }
%test "two" { pv-vm create v; pv-disk serve d --memory 1M; echo "$PV_SCOPE" >>scopes; }
EOF
  inner three.bats
  assert_output $'1..2\nok 1 one\nok 2 two'
  assert_equal "$(sort -u scopes | wc -l)" 2
  nothing_left
  # The same by bats_load_library, and with a teardown of one's own.
  test_file library.bats <<'EOF'
bats_load_library provium
setup() { pv_scope --own; }
teardown() { pv_teardown; echo "$PV_RUN_DIR" >own; }
%test "three" { pv-vm create v; [ "$(pv-vm list --all -o name)" = v ]; }
EOF
  BATS_LIB_PATH=$tree/usr/share inner library.bats
  assert_output $'1..1\nok 1 three'
  [ ! -e "$(cat own)" ]
  nothing_left
}

@test "a test that fails shows the console of its VM and the journal of its disk" {
  need_guest
  test_file fails.bats <<'EOF'
load provium; setup() { pv_scope; }
%test "wrong" { pv-vm create v | pv-disk attach --id vda --scratch 1M | pv-vm boot | pv-fault add eio_read >/dev/null
  pv-vm run v -- sh -c 'echo seen on the console >/dev/console; dd if=/dev/vda of=/dev/null count=1'; }
EOF
  inner fails.bats
  assert_equal "$status" 1
  assert_output --partial 'console of VM v'
  assert_output --partial 'seen on the console'
  assert_output --partial 'fault journal of disk v/vda'
  assert_output --partial '"delivered":"EIO"'
  nothing_left
}

@test "where no VM can run a test is skipped with the reason" {
  test_file skips.bats <<'EOF'
load provium; setup() { pv_scope; }
%test "needs" { pv_need_vm; false; }
%test "needs a command" { pv-vm create v; pv_need pv-vm boot v; false; }
%test "fails for another reason" { pv_need pv-vm boot nosuch; }
EOF
  PV_QEMU=/nonexistent inner skips.bats
  assert_line --regexp '^ok 1 needs # skip QEMU .* is not installed'
  assert_line --regexp '^ok 2 needs a command # skip .*QEMU'
  assert_line --partial 'not ok 3'
  nothing_left
}

@test "commands know the line of the script that called them, also through run" {
  mkdir fake
  printf '#!/bin/sh\necho "$PV_CALLER" >>calls\n' >fake/pv-vm
  chmod +x fake/pv-vm
  test_file caller.bats <<'EOF'
load provium
%test "calls" {
  pv-vm list
  run pv-vm list
}
EOF
  PATH="$PWD/fake:$PATH" inner caller.bats
  assert_equal "$(sed 's|.*/||' calls)" $'caller.bats:3\ncaller.bats:4'
}

@test "a plain script: closed at its end, whatever that is, with its own status" {
  cat >script <<'EOF'
source "$(provium bash)"
pv_scope
pv-vm create v >/dev/null
exit "$1"
EOF
  run -0 bash -u script 0
  nothing_left
  run -3 bash script 3
  assert_output --partial 'console of VM v'
  nothing_left
  PV_QEMU=/nonexistent run -7 bash -c 'source "$(provium bash)"; pv_need_vm; echo no'
  assert_output --partial skipped
  run -2 bash -c 'provium nonsense 2>&1'
  assert_equal "${#lines[@]}" 1
}

@test "a Makefile: recipes in a scope, a target for a folder of tests" {
  mkdir vm
  test_file vm/a.bats <<'EOF'
load provium; setup() { pv_scope; }
%test "in" { pv-vm create v; }
EOF
  cat >Makefile <<'EOF'
include $(shell provium mk)
image:
	$(PV_IN_SCOPE) sh -c 'pv-vm create v -o scope; exit $(STATUS)'
$(eval $(call pv_bats,check-vm,vm))
EOF
  export -n MAKEFLAGS MAKELEVEL
  PV_SCOPE=outer run -0 --separate-stderr make -s image STATUS=0
  [[ "$output" == outer/run-* ]]
  run -2 make -s image STATUS=4
  run -0 clean make -s check-vm
  assert_output --partial 'ok 1 in'
  nothing_left
}

# example WORDS: the block of the manual that begins with them.
example() {
  awk -v first="$1" '/^\.Bd -literal/ { block = ""; inside = 1; next }
    /^\.Ed/ { if (index(block, first) == 1) printf "%s", block; inside = 0 }
    inside { gsub(/\\e/, "\\"); block = block $0 "\n" }' \
    "$BATS_TEST_DIRNAME/../../man/provium.7"
}

@test "the examples of the manual do as it says" {
  need_guest
  example 'load provium' >manual.bats
  [ "$(wc -l <manual.bats)" -eq 3 ]
  inner manual.bats
  assert_output $'1..1\nok 1 it boots'
  example source >script
  run -0 bash -e script
  has '.disk.state == "serving"'
  mkdir -p tests/vm
  cp manual.bats tests/vm
  example include >Makefile
  printf '#!/bin/sh\necho "checked $1 in $PV_SCOPE"\n' >check-image
  chmod +x check-image
  touch image.raw
  export -n MAKEFLAGS MAKELEVEL
  run -0 make -s test-image
  assert_output --partial 'checked image.raw in run-'
  nothing_left
}
