#!/usr/bin/env bats
# Profiles of a provium.toml: how it is found, what it may say, and what a wrong one gets.

load helper

setup() { pv_setup; unset PROVIUM_CONFIG; }
teardown() { pv_teardown; }

# toml TEXT: a provium.toml of it.
toml() { printf '%b' "$1" >provium.toml; }

# wrong PLACE WORDS TEXT: this file is refused there, with these words.
wrong() {
  toml "$3"
  expect_error invalid 4 pv-vm profiles
  local file=$PWD/provium.toml
  [[ $stderr == "pv-vm: $file:$1: "*"$2"* ]] ||
    { echo "wanted: $file:$1: …$2…, got: $stderr"; return 1; }
}

@test "profiles lists what is built in and what the file has, and whether it can be booted" {
  mkdir kernels
  echo k >kernels/bzImage
  toml '[profiles.one]\nkernel = "kernels/../kernels/bzImage"\nguest_os = "linux"\nmemory = "1G"\ncpus = 3
qemu_args = ["-s"]\n[profiles.two]\nkernel = "/nonexistent"\n'
  ok pv-vm profiles -o name
  assert_output $'one\ntiny\ntwo'
  ok pv-vm profiles
  has '.profile | .name == "two" and .usable == false and (.problem | contains("kernel /nonexistent"))'
  has '.profile | .memory_bytes == 1073741824 and .cpus == 3 and .usable and .qemu_args == ["-s"]' "${lines[0]}"
  has ".profile | .kernel == \"$PWD/kernels/bzImage\" and .source == \"$PWD/provium.toml\"" "${lines[0]}"
  has '.profile | .name == "tiny" and .source == "built in"' "${lines[1]}"
}

@test "the file is --config, else PROVIUM_CONFIG, else the nearest one upward" {
  mkdir -p deep/er
  for each in flag env up; do printf '[profiles.%s]\nkernel = "k"\n' "$each" >"$each.toml"; done
  mv up.toml provium.toml
  cd deep/er
  run -0 pv-vm profiles -o name
  assert_output $'tiny\nup'
  PROVIUM_CONFIG=../../env.toml run -0 pv-vm profiles -o name
  assert_output $'env\ntiny'
  PROVIUM_CONFIG=../../env.toml run -0 pv-vm profiles --config ../../flag.toml -o name
  assert_output $'flag\ntiny'
  expect_error invalid 4 pv-vm profiles --config missing.toml
  PROVIUM_CONFIG=missing.toml expect_error invalid 4 pv-vm profiles
  expect_error invalid 4 pv-vm profiles --config .
  cd /
  run -0 pv-vm profiles -o name
  assert_output tiny
}

@test "what is called provium.toml and is no file is said to be none, and nothing waits for it" {
  mkdir deep
  cd deep
  for make in 'mkfifo' 'mkdir' 'ln -s provium.toml' 'ln -s /nonexistent/x' 'ln -s /dev/null'; do
    $make ../provium.toml
    expect_error invalid 4 timeout 20 pv-vm profiles
    [[ $stderr == "pv-vm: $PV_T/w/provium.toml: not a file"* ]]
    expect_error invalid 4 timeout 20 pv-vm create v --profile a
    rm -rf ../provium.toml
  done
  # Also when it has become one since.
  printf '[profiles.a]\nkernel = "k"\n' >../provium.toml
  pv-vm create v --profile a >/dev/null
  rm ../provium.toml
  mkfifo ../provium.toml
  expect_error invalid 4 timeout 20 pv-vm boot v
}

@test "an unknown profile lists the known ones; a missing kernel or initrd is named with its field" {
  toml '[profiles.a]\nkernel = "k"\n[profiles.b]\nkernel = "k2"\ninitrd = "i"\n'
  echo k >k2
  expect_error invalid 4 pv-vm create v --profile c
  has '.error.valid == ["a", "b", "tiny"]'
  for name in a:kernel:k b:initrd:i; do
    IFS=: read -r profile field path <<<"$name"
    pv-vm create v --profile "$profile" >/dev/null
    expect_error unavailable 7 pv-vm boot v
    has ".error | .field == \"$field\" and .path == \"$PWD/$path\""
    expect_error unavailable 7 pv-vm argv v
    pv-vm close v >/dev/null
  done
}

@test "a wrong file is one line with the place of the mistake" {
  wrong 2:1 "unknown key 'kernal'" '[profiles.a]\nkernal = "k"\n'
  wrong 1:1 "unknown key 'profile'" 'profile = 1\n'
  wrong 2:10 "'kernel' must be a string, not a number" '[profiles.a]\nkernel = 7\n'
  wrong 3:10 'redefine' '[profiles.a]\nkernel = "a"\nkernel = "b"\n'
  wrong 1:2 'key' '[(x]\n'
  wrong 2:12 '' '[profiles.a]\nkernel = "a\n'
  wrong 1:11 'not a name' '[profiles."../x"]\nkernel = "a"\n'
  wrong 1:11 'built in' '[profiles.tiny]\nkernel = "a"\n'
  wrong 1:1 'nothing to boot' '[profiles.a]\n'
  wrong 3:11 'control characters' '[profiles.a]\nkernel = "k"\ncmdline = "a\\nb"\n'
  wrong 3:10 'is not a size' '[profiles.a]\nkernel = "k"\nmemory = "1x"\n'
  wrong 3:10 'multiple of 1M' '[profiles.a]\nkernel = "k"\nmemory = 100\n'
  wrong 3:10 "must be a string, not a fraction" '[profiles.a]\nkernel = "k"\nmemory = nan\n'
  wrong 3:8 '1 to 255' '[profiles.a]\nkernel = "k"\ncpus = 0\n'
  wrong 3:11 'q35' '[profiles.a]\nkernel = "k"\nmachine = "pc"\n'
  wrong 3:12 'not a name' '[profiles.a]\nkernel = "k"\nguest_os = "a b"\n'
  wrong 2:10 'needs a kernel' '[profiles.a]\ninitrd = "i"\ndisks = ["d"]\n'
  wrong 2:11 'needs a kernel' '[profiles.a]\ncmdline = "i"\ndisks = ["d"]\n'
  wrong 2:39 "two disks 'vdb'" '[profiles.a]\ndisks = ["d",{id="vdb",image="x"},"e",{id="vdb",image="y"}]\n'
  wrong 2:11 'needs the key image' '[profiles.a]\ndisks = [ {id = "x"} ]\n'
  wrong 2:9 'only one disk' '[profiles.a]\ndisks = [{image="x",boot=true},{image="y",boot=true}]\n'
  wrong 2:11 'absolute path' '[profiles.a]\nfiles = { "etc/x" = "s" }\n'
  wrong 2:11 "'..'" '[profiles.a]\nfiles = { "/etc/../../x" = "s" }\n'
  wrong 2:18 'either source or text' '[profiles.a]\nfiles = { "/x" = {mode=0o644} }\n'
  wrong 2:24 '0o755' '[profiles.a]\nfiles = { "/x" = {mode=644,text=""} }\n'
  wrong 2:9 'not both' '[profiles.a]\nbuild = {}\nkernel = "k"\n'
}

@test "a file that is too large, nested too deep, binary or empty" {
  head -c 2000000 /dev/zero | tr '\0' '#' >provium.toml
  expect_error invalid 4 pv-vm profiles
  { printf 'a='; head -c 100000 /dev/zero | tr '\0' '['; } >provium.toml
  expect_error invalid 4 pv-vm profiles
  head -c 1000 /dev/urandom >provium.toml
  expect_error invalid 4 pv-vm profiles
  : >provium.toml
  run -0 pv-vm profiles -o name
  assert_output tiny
}

@test "a VM remembers its profile: it boots from elsewhere, with memory, files and disks of it" {
  need_guest
  tiny=$(pv-vm profiles -o kernel | head -n 1)
  initrd=$(pv-vm profiles -o initrd | head -n 1)
  mkdir etc
  echo hello >etc/hello
  truncate -s 3M data.img
  truncate -s 5M fixed.img
  cat >provium.toml <<TOML
[profiles.mine]
kernel = "$tiny"
initrd = "$initrd"
cmdline = "console=ttyS0 panic=-1 quiet pv.mine=1"
memory = "200M"
disks = ["data.img", { id = "fixed", image = "fixed.img", read_only = true }]
files = { "/etc/hello" = "etc/hello", "/etc/two" = { text = "two", mode = 0o600 } }
TOML
  pv-vm create v --profile mine | pv-disk attach --id own --memory 1M >/dev/null
  cd /
  run -0 pv-vm argv v
  has '.argv | map(select(startswith("{\"driver\":\"virtio-blk"))) | length == 3'
  ok pv-vm boot v --file /etc/two:=other
  has '.vm | .memory_bytes == 209715200 and .disks == ["vda", "fixed", "own"] and .profile == "mine"'
  run -0 pv-vm run v --raw -- sh -c 'cat /etc/hello /etc/two; echo; cat /sys/block/vd?/size /sys/block/vdb/ro
    echo guest >/dev/vda; tr " " "\n" </proc/cmdline | grep mine'
  assert_output $'hello\nother\n6144\n10240\n2048\n1\npv.mine=1'
  pv-vm close v >/dev/null
  cmp -n 3145728 "$PV_T/w/data.img" /dev/zero
}

@test "a boot that fails leaves no disk of the profile behind" {
  truncate -s 1M d.img
  echo k >k
  toml '[profiles.a]\nkernel = "k"\ndisks = ["d.img", {image = "d.img", format = "qcow2"}]\n'
  pv-vm create v --profile a >/dev/null
  run --separate-stderr pv-vm boot v
  [ "$status" -ne 0 ]
  [[ $stderr == *"disk 'vdb'"* ]]
  run -0 pv-disk list
  assert_output ''
  run -0 pv-vm info v
  has '.vm | .state == "created" and .disks == []'
}

@test "a profile with build names the command that makes its guest, and boots it then" {
  need_guest
  toml '[profiles.built-by-test]\nbuild = { files = { "/etc/built" = "provium.toml" } }\n'
  pv-vm create v --profile built-by-test >/dev/null
  cache=$(dirname "$(dirname "$(dirname "$(pv-vm guest info -o initrd)")")")
  # A cache of its own, with the downloads of the other.
  export PV_CACHE_DIR=$PV_T/cache
  mkdir -m 700 "$PV_CACHE_DIR"
  expect_error unavailable 7 pv-vm boot v
  has '.error.hint == "pv-vm guest build --profile built-by-test"'
  cp -r "$cache/packages" "$PV_CACHE_DIR/"
  run -0 pv-vm guest build --profile built-by-test -o name
  assert_output built-by-test
  pv-vm boot v -o state
  run -0 pv-vm run v --raw -- cat /etc/built
  assert_output "$(cat provium.toml)"
  expect_error usage 2 pv-vm guest build --profile built-by-test --name x
}

@test "a guest without agent or console ends in boot_timeout, which says what is missing" {
  need_guest
  pv-vm create v --file /init:='#!/bin/sh
exec sleep 1000' --cmdline 'quiet panic=-1' >/dev/null
  expect_error boot_timeout 6 pv-vm boot v --timeout 7s
  [[ $stderr == *"no guest agent has started"*"serial console"* ]]
  # The same guest boots without: its agent never comes.
  ok pv-vm boot v --no-agent
  has '.vm | .state == "booted" and .no_agent == true'
  run -255 --separate-stderr pv-vm run v -- true
  has '.error.code == "no_agent"'
}

# Without panic=-1 the machine just hangs. It does so by counting, which is stopped when that has
# been seen; the boot gets more time where it has not.
hangs_in_panic() {
  local limit booting status
  for limit in 10 20 40 80; do
    pv-vm create "p$limit" --file /init:=$'#!/bin/sh\nexit 1' --cmdline 'console=ttyS0' >/dev/null
    pv-vm boot "p$limit" --timeout ${limit}s >out 2>err &
    booting=$!
    pv-vm wait "p$limit" --console 'end Kernel panic' --timeout ${limit}s >/dev/null 2>&1 &&
      pkill -STOP -f "qemu-system.*$PV_RUN_DIR"
    status=0
    wait "$booting" || status=$?
    assert_equal "$status $(jq -r .error.code out)" '6 boot_timeout'
    grep -q 'kernel has panicked' err && return
  done
  fail "$(cat err)"
}

@test "a guest that panics, or powers itself off while booting, ends the boot at once" {
  need_guest
  pv-vm create v --file /init:='#!/bin/sh
exit 1' >/dev/null
  expect_error guest_died 4 pv-vm boot v
  has '.error.console | contains("panic")'
  hangs_in_panic
  expect_error guest_died 4 pv-vm boot v --file /init:='#!/bin/sh
exec busybox poweroff -f'
  [[ $stderr == *"powered off while booting"* ]]
}
