#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a command does something else because of what it has inherited: signals, a umask,
# descriptors, a working directory, limits, an environment.

load helper
setup() { pv_setup; }
teardown() { pv_teardown; }

inherit() { "$BATS_TEST_DIRNAME/../servers/inherit.py" "$@"; }

# Each does its work with the state $1, in a folder of its own.
serves() {
  local said
  said=$(inherit "$1" pv-disk serve d --image "$PWD/i.img" -o disk.state </dev/null)
  [ "$said" = serving ] || return
  said=$(inherit "$1" pv-disk read d --raw --length 1M </dev/null | tr -d 'a' | wc -c)
  inherit "$1" pv-disk close d </dev/null >/dev/null && [ "$said" -eq 0 ]
}
converts() {
  inherit "$1" pv-disk create "$PWD/c.qcow2" --size 1M </dev/null >/dev/null &&
    qemu-img check -q c.qcow2
}
runs() {
  local status=0
  inherit "$1" pv-vm scope run -- sh -c 'exit 7' </dev/null || status=$?
  [ "$status" -eq 7 ]
}
compares() {
  local said
  said=$(inherit "$1" pv-verify compare "$PWD/i.img" "$PWD/same.img" \
    -o summary.equal </dev/null)
  [ "$said" = true ]
}
lists() {
  local said
  said=$(inherit "$1" pv-vm profiles -o profile.name </dev/null && inherit "$1" pv-fault kinds </dev/null)
  [[ $said == *tiny*'"error"'* ]]
}

@test "whatever a command inherits, it does what it is for" {
  local state action wrong=''
  head -c 1M /dev/zero | tr '\0' a >i.img
  cp i.img same.img
  while read -r state; do
    for action in serves converts runs compares lists; do
      rm -f c.qcow2
      "$action" "$state" </dev/null || wrong+="$state: $action"$'\n'
    done
  done < <(inherit)
  assert_equal "$wrong" ''
}

@test "a closed stdout is an error, and data goes to no wrong place" {
  truncate -s 1M i.img
  serve d --image i.img
  run bash -c 'pv-disk info d </dev/null >&-'
  [ "$status" -eq 5 ]
  cmp -n 1048576 i.img /dev/zero
}
