#!/usr/bin/env bats
# Fixtures: snapshots that are built once, kept by everything that they depend on, and restored for
# each test.

load helper

setup_file() {
  PV_FIXTURE_DIR=$(mktemp -d "${PV_TMP:-/tmp}/fx.XXXXXX")
  export PV_FIXTURE_DIR
}
teardown_file() { rm -rf "$PV_FIXTURE_DIR"; }
setup() { pv_setup; }
teardown() { pv_teardown; }

# fixture NAME FLAG…: a VM `v` with a file in it; each time that it is really built adds a line.
# Builders go on from the guest of all tests, which one whose image has to boot does not.
fixture() {
  local name=$1
  shift
  pv-snap fixture "$name" "$@" -- ./build </dev/null
}
builder() {
  cat >build <<'EOF'
#!/bin/sh
set -e
echo built >>"$BUILT"
if [ -n "${PV_GUEST_SNAP-}" ]; then pv-snap restore "$PV_GUEST_SNAP" v </dev/null >/dev/null
else pv-vm create v | pv-vm boot >/dev/null; fi
pv-vm run v -- sh -c 'echo made >/tmp/made' >/dev/null
EOF
  chmod +x build
  export BUILT="$PWD/built"
}
built() { grep -c built "$BUILT"; }

# If this failed: a fixture is built anew each time, or a change of its builder goes unnoticed.
@test "a fixture is built once; what it depends on makes another; damage builds it again" {
  need_guest
  builder
  ok fixture base
  has '.snap.hit == false and .snap.fixture == "base"'
  path=$(jq -r .snap.path <<<"$output")
  ok fixture base
  has '.snap.hit and .snap.path == "'"$path"'"'
  assert_equal "$(built)" 1
  assert_equal "$(pv-vm list --all -o name)" ''
  ok pv-snap restore "$path" w
  assert_equal "$(pv-vm run w -o run.stdout -- cat /tmp/made)" made

  # while its VM runs it is not deleted
  ok pv-snap fixture base --clean
  has '.snap.deleted == false and (.snap.problem | test("in use"))'
  pv-vm close w >/dev/null

  ok fixture base --key other
  has '.snap.hit == false'
  echo one >dep
  ok fixture base --file dep
  has '.snap.hit == false'
  ok fixture base --file dep
  has '.snap.hit'
  echo two >dep
  ok fixture base --file dep
  has '.snap.hit == false'
  assert_equal "$(built)" 4

  printf x | dd of="$path/ram" bs=1 seek=5000000 conv=notrunc status=none
  run -0 pv-snap fixture base --stale -o problem
  assert_output --partial 'ram is damaged'
  ok fixture base
  has '.snap.hit == false and .snap.path == "'"$path"'"'
  assert_equal "$(built)" 5
  ok pv-snap fixture --list
  assert_equal "$(grep -c '"fixture":"base"' <<<"$output")" 4
  ok pv-snap fixture --clean
  assert_equal "$(pv-snap fixture --list)" ''
}

# If this failed: another kernel or command line of the profile restores the old guest.
@test "the profile is part of the key: command line and initial RAM disk by content" {
  need_guest
  cp "$(pv-vm guest info -o kernel)" kernel
  cp "$(pv-vm guest info -o initrd)" initrd
  profile() { printf '[profiles.p]\nkernel = "kernel"\ninitrd = "initrd"\ncmdline = "%s"\n' "$1" >provium.toml; }
  key() { pv-snap fixture k --profile p -o key -- false 2>&1 </dev/null || true; compgen -G "$PV_FIXTURE_DIR/k-*.lock" | wc -l; }
  profile one
  assert_equal "$(key | tail -n1)" 1
  assert_equal "$(key | tail -n1)" 1
  profile two
  assert_equal "$(key | tail -n1)" 2
  touch initrd
  assert_equal "$(key | tail -n1)" 2
  printf x >>initrd
  assert_equal "$(key | tail -n1)" 3
  expect_error invalid 4 pv-snap fixture k --profile none -- true
}

# If this failed: a builder that fails leaves VMs running or an entry that is none.
@test "a builder that fails, says nothing or is killed leaves nothing, and is told" {
  expect_error aborted 4 bash -c 'pv-snap fixture f -- sh -c "pv-vm create v >/dev/null; exit 3"'
  [[ $stderr == *'exit status 3'* ]]
  expect_error invalid 4 pv-snap fixture f -- true
  expect_error usage 2 pv-snap fixture f
  expect_error usage 2 pv-snap fixture ../f -- true
  assert_equal "$(pv-vm list --all -o name)" ''
  assert_equal "$(pv-snap fixture --list)" ''
}

# If this failed: a fixture takes a snapshot of its user away, and deletes it when the cache is full.
@test "a builder that starts from a snapshot at a path leaves it there" {
  need_guest
  guest_vm b
  ok pv-snap take b ./base --stop
  pv-vm close b >/dev/null
  from_base() { pv-snap fixture f -- sh -c "pv-snap restore $PWD/base v >doc </dev/null
    pv-vm run v -- sh -c 'echo made >/tmp/made' >/dev/null </dev/null; $1" </dev/null; }
  ok from_base 'cat doc'
  path=$(jq -r .snap.path <<<"$output")
  ok pv-snap restore "$path" w
  assert_equal "$(pv-vm run w -o run.stdout -- cat /tmp/made)" made
  # Taken without a path it goes with the builder's scope: that one is the fixture itself.
  ok from_base 'pv-snap take v'
  ok pv-snap restore "$(jq -r .snap.path <<<"$output")" x
  assert_equal "$(pv-vm run x -o run.stdout -- cat /tmp/made)" made
  expect_error invalid 4 pv-snap fixture f -- pv-snap info "$PWD/base"
  pv-vm close w x >/dev/null
  pv-snap fixture --clean >/dev/null
  ok pv-snap check ./base
}

# If this failed: two who want the same fixture build it twice, or get half of one.
@test "several who want the same fixture get one, built once" {
  need_guest
  builder
  for i in 1 2 3; do fixture shared -o path >"path$i" & done
  wait
  assert_equal "$(built)" 1
  assert_equal "$(sort -u path1 path2 path3 | wc -l)" 1
  [ -d "$(cat path1)" ]
  pv-snap fixture shared --clean >/dev/null
}

# If this failed: the cache grows without end, or loses what was used last.
@test "the least recently used go when the cache is larger than it may be" {
  need_guest
  builder
  fixture one >/dev/null
  PV_FIXTURE_MAX=1M fixture two >/dev/null
  run -0 pv-snap fixture --list -o fixture
  assert_output two
  pv-snap fixture --clean >/dev/null
}

# If this failed: the promise of the BATS helper, a fresh VM for each test, does not hold.
@test "twenty tests, each on a fresh VM from the file's fixture" {
  need_guest
  {
    echo 'load provium'
    echo "setup_file() { pv_fixture twenty -- sh -c 'pv-vm create v | pv-vm boot'; }"
    echo 'setup() { pv_scope; pv_restore v; }'
    for i in {1..20}; do
      echo "%test \"$i\" { pv-vm run v -- sh -c '[ ! -e /tmp/x ] && touch /tmp/x' >/dev/null; }"
    done
  } | sed 's/^%test/@test/' >twenty.bats
  cp "$BATS_TEST_DIRNAME/../../lib/share/provium.bash" .
  local name unset=()
  for name in $(compgen -e BATS_); do unset+=(-u "$name"); done
  run -0 env "${unset[@]}" PATH="${PATH//$BATS_LIBEXEC:/}" bats --tap twenty.bats
  assert_equal "$(grep -c '^ok ' <<<"$output")" 20
  pv-snap fixture --clean >/dev/null
}
