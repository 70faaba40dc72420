#!/usr/bin/env bats
# Options of create and boot: files, seeds, times, and what is refused before QEMU starts.

load helper

setup() { pv_setup; }
teardown() { pv_teardown; }

guest() { pv-vm run v --raw -- sh -c "$1"; }

@test "files are there before init, with mode, owner and folders; the last of a name wins" {
  need_guest
  head -c 70000 /dev/urandom >bytes
  chmod 640 bytes
  echo suid >suid
  chmod 7751 suid
  : >empty
  # The first process of this guest reads what was put in for it.
  pv-vm create v --file /etc/fstab=bytes --file /opt/a/b/bytes=bytes --file /opt/old:=create >/dev/null
  printf 'proc /proc proc defaults 0 0\nsysfs /sys sysfs defaults 0 0\ndevtmpfs /dev devtmpfs defaults 0 0\n' >fstab
  printf 'tmpfs /run tmpfs defaults 0 0\n' >>fstab
  ok pv-vm boot v --file /etc/fstab=fstab --file /opt/old:=boot --file /bin/hello:='echo "a=b"' \
    --file /opt/empty=empty --file /opt/none:= --file '/tmp/with space'=bytes --file /bin/ls:=replaced \
    --file /opt/suid=suid
  has '[.vm.files[].dest] == ["/etc/fstab","/opt/a/b/bytes","/opt/old","/bin/hello","/opt/empty",
    "/opt/none","/tmp/with space","/bin/ls","/opt/suid"]'
  run -0 guest 'sha256sum </opt/a/b/bytes; stat -c "%a %u:%g" /opt/a/b/bytes /opt/a; cat /opt/old; echo; sh /bin/hello
    stat -c %s /opt/empty /opt/none; readlink /bin; stat -c %a /tmp; sha256sum <"/tmp/with space"; cat /bin/ls
    echo; stat -c "%a %u:%g" /opt/suid'
  assert_output "$(sha256sum <bytes)
640 0:0
755 0:0
boot
a=b
0
0
usr/bin
1777
$(sha256sum <bytes)
replaced
7751 0:0"
  run -0 guest 'busybox ls /etc/fstab && grep -c . /etc/fstab'
  assert_line --index 1 4
}

# The seed makes the stream; how much of it the kernel, and QEMU for each reset of the firmware,
# have taken before, depends on their timing. So a piece of the first boot's bytes is looked for.
@test "a seed gives virtio-rng the same bytes at each boot, another seed gives others" {
  need_guest
  for seed in 7 7 18446744073709551615; do
    pv-vm create v --rng-seed 1 | pv-vm boot --rng-seed "$seed" -o rng_seed >shown
    assert_equal "$(cat shown)" "$seed"
    guest 'head -c 16384 /dev/hwrng | od -An -v -tx1 | tr -d " \n"' >>bytes
    echo >>bytes
    pv-vm close v >/dev/null
  done
  # 16 bytes from the middle of what the first boot read.
  piece=$(sed -n 1p bytes | cut -c 16001-16032)
  assert_equal "${#piece}" 32
  run -0 sed -n 2p bytes
  assert_output --partial "$piece"
  run -0 sed -n 3p bytes
  refute_output --partial "$piece"
}

@test "the clock starts at the given time, to a fraction of a second" {
  need_guest
  pv-vm create v >/dev/null
  before=$(date +%s%N)
  ok pv-vm boot v --initial-time 2033-05-18T03:33:20.75Z
  has '.vm.initial_time_ns == "2000000000750000000"'
  # The system's clock stands in /proc as boot time, and to the nanosecond in a new file's time.
  run -0 guest 'touch /tmp/now; seconds=$(date +%s); touch /tmp/later
    stat -c %y /tmp/now; echo $seconds; stat -c %y /tmp/later; hwclock -u'
  echo "$output"
  now=$(date -u -d "${lines[0]}" +%s%N)
  after=$(date +%s%N)
  # Not before it was switched on, nor later than the time that has passed here.
  [ "$now" -ge 2000000000750000000 ]
  [ $((now - 2000000000750000000)) -le $((after - before)) ]
  [ "${lines[1]}" -ge $((now / 1000000000)) ]
  [ "${lines[1]}" -le "$(date -u -d "${lines[2]}" +%s)" ]
  pv-vm close v >/dev/null
}

@test "boot wins over create key by key, and the document has the result" {
  need_guest
  pv-vm create v --memory 300M --cpus 2 --cmdline-append create=1 --initial-time 1 >/dev/null
  ok boot_smp v --memory 200M --initial-time 86400.000000001 --cmdline-append boot=1
  has '.vm | .memory_bytes == 209715200 and .cpus == 2 and .initial_time_ns == "86400000000001"'
  has '.vm.kernel_cmdline | endswith("pv.name=v boot=1")'
}

@test "bad seeds, times and files are one line each, and nothing starts" {
  local value
  for value in -1 18446744073709551616 x 1.5 0x10 ' 1'; do
    expect_error usage 2 pv-vm create v --rng-seed "$value"
  done
  for value in nan inf -1 1e9 1.0000000001 99999999999 3155760000 2070-01-01T00:00:00Z 2262-04-12T00:00:00Z 2023-02-29T00:00:00Z \
    2023-01-01 2023-01-01T24:00:00Z 1969-12-31T23:59:59Z 2023-01-01T00:00:00 0x1 ''$'\n'; do
    expect_error usage 2 pv-vm create v --initial-time "$value"
  done
  for value in x =a /a relative=/etc/hostname ../x:=a /../x:=a /a/../../x:=a /a/:=x /:=x $'/a\nb:=x' /a=; do
    expect_error usage 2 pv-vm create v --file "$value"
  done
  expect_error usage 2 pv-vm create v --cmdline $'a\nb'
  expect_error usage 2 pv-vm create v --cmdline $'a\xff'
  expect_error usage 2 pv-vm create v --cmdline-append $'a\xff'
  # Linux has 255 bytes for a name and 4095 for a path, and would drop the rest without a word.
  long=$(printf '%255s' '' | tr ' ' a) path=$(printf '/%.0s'"$long" {1..15})
  expect_error usage 2 pv-vm create v --file "/${long}a:=x"
  expect_error usage 2 pv-vm create v --file "/b/${long}a/c:=x"
  expect_error usage 2 pv-vm create v --file "$path/${long}a:=x"
  expect_error usage 2 pv-vm create v --file "$path/$long:=x"
  run -0 pv-vm list
  assert_output ''
  pv-vm create v --file "/$long:=x" --file "$path/${long%a}:=x" >/dev/null
  expect_error usage 2 pv-vm boot v --file "/${long}a:=x"
}

@test "a file that is not there, or is none, is named before QEMU starts" {
  need_guest
  ln -s /nonexistent/target dangling
  ln -s loop loop
  for value in missing dangling loop . /dev/null; do
    pv-vm create v --file "/x=$value" >/dev/null
    expect_error invalid 4 pv-vm boot v
    [[ $stderr == *"file /x: "* ]]
    has '.error.field == "files" and (.error.path | startswith("/"))'
    pv-vm close v >/dev/null
  done
  pv-vm create v --file /etc:=x >/dev/null
  expect_error invalid 4 pv-vm boot v
  assert_equal "$stderr" "pv-vm: guest file '/etc': is a directory"
  has '.error | .field == "files" and .path == "/etc"'
}
