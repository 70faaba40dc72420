// SPDX-License-Identifier: MIT
// If this fails, VMs start with the wrong devices: disks out of order, paths cut at a comma, a
// guest command line that is not the one that was asked for.
#include <algorithm>

#include <fmt/format.h>

#include "../catch.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "vm/argv.hpp"

using namespace pv;
using namespace pv::vm;

namespace {

Machine machine() {
  Machine m;
  m.name = "v";
  m.dir = "/run/obj/1";
  m.accel = "tcg";
  m.profile.name = "tiny";
  m.profile.kernel = "/k";
  m.profile.initrd = "/i";
  m.profile.cmdline = "console=ttyS0";
  m.qemu = {"/usr/bin/qemu", "7.2", true};
  return m;
}

// The words that follow each occurrence of `option`.
std::vector<std::string> values(const std::vector<std::string>& argv, const std::string& option) {
  std::vector<std::string> out;
  for (size_t i = 0; i + 1 < argv.size(); ++i)
    if (argv[i] == option) out.push_back(argv[i + 1]);
  return out;
}

size_t count_with(const std::vector<std::string>& words, const std::string& part) {
  return static_cast<size_t>(std::count_if(words.begin(), words.end(), [&](const auto& word) {
    return word.find(part) != std::string::npos;
  }));
}

}  // namespace

TEST_CASE("argv: the essentials") {
  const auto argv = build_argv(machine());
  CHECK(argv[0] == "/usr/bin/qemu");
  CHECK(values(argv, "-kernel") == std::vector<std::string>{"/k"});
  CHECK(values(argv, "-initrd") == std::vector<std::string>{"/i"});
  CHECK(values(argv, "-m") == std::vector<std::string>{"256M"});
  CHECK(values(argv, "-append") == std::vector<std::string>{"console=ttyS0 pv.name=v"});
  CHECK(values(argv, "-accel") == std::vector<std::string>{"tcg,thread=multi"});
  CHECK(values(argv, "-mon").size() == 2);
  CHECK(values(argv, "-sandbox").size() == 1);
  CHECK(values(argv, "-blockdev").empty());
  CHECK(std::find(argv.begin(), argv.end(), "-no-reboot") == argv.end());
}

TEST_CASE("argv: what QEMU or the host cannot do is left out") {
  Machine m = machine();
  m.qemu.sandbox = false;
  m.accel = "kvm";
  const auto argv = build_argv(m);
  CHECK(values(argv, "-sandbox").empty());
  CHECK(values(argv, "-bios").empty());
  CHECK(values(argv, "-cpu") == std::vector<std::string>{"host"});
}

TEST_CASE("argv: a command line that was given is used to the letter") {
  Machine m = machine();
  m.config.cmdline = "a=1";
  CHECK(kernel_cmdline(m) == "a=1");
  m.config.cmdline_append = "b=2";
  CHECK(kernel_cmdline(m) == "a=1 b=2");
  m.config.cmdline = "";
  CHECK(kernel_cmdline(m) == "b=2");
  m.config.cmdline.reset();
  CHECK(kernel_cmdline(m) == "console=ttyS0 pv.name=v b=2");
}

TEST_CASE("argv: commas in paths are doubled") {
  Machine m = machine();
  m.dir = "/a,b";
  CHECK(count_with(values(build_argv(m), "-chardev"), "path=/a,,b/") == 5);
}

TEST_CASE("argv: options win over the profile, extra arguments come last") {
  Machine m = machine();
  m.profile.qemu_args = {"-first"};
  m.config.qemu_args = {"-second", "x y"};
  m.config.memory_bytes = uint64_t{512} << 20;
  m.config.cpus = 4;
  const auto argv = build_argv(m);
  CHECK(values(argv, "-m") == std::vector<std::string>{"512M"});
  CHECK(values(argv, "-smp") == std::vector<std::string>{"4"});
  const std::vector<std::string> last(argv.end() - 3, argv.end());
  CHECK(last == std::vector<std::string>{"-first", "-second", "x y"});
}

TEST_CASE("argv: disks keep their order, each on a port of its own") {
  Machine m = machine();
  for (const char* id : {"vda", "vdb", "third"}) {
    DiskSpec disk;
    disk.id = disk.serial = id;
    disk.socket = std::string("/s/") + id + ",\"odd\".sock";
    m.disks.push_back(disk);
  }
  m.disks[1].read_only = true;
  m.disks[2].sector_size = 4096;
  const auto argv = build_argv(m);
  const auto nodes = values(argv, "-blockdev");
  REQUIRE(nodes.size() == 3);
  for (size_t slot = 0; slot < 3; ++slot) {
    const json node = json::parse(nodes[slot]);
    CHECK(node["node-name"] == node_name(slot));
    CHECK(node["server"]["path"] == m.disks[slot].socket);
    CHECK(node["read-only"] == (slot == 1));
    const json device = device_arguments(m.disks[slot], slot);
    CHECK(device["bus"] == fmt::format("rp{}", slot));
    CHECK(device["werror"] == "report");
    CHECK(device["rerror"] == "report");
    CHECK(count_with(values(argv, "-device"), to_line(device)) == 1);
  }
  // A physical sector is never smaller than a logical one: QEMU refuses that.
  CHECK(device_arguments(m.disks[2], 2)["physical_block_size"] == 4096);
  CHECK(count_with(values(argv, "-device"), "pcie-root-port") == port_count(3));
}

TEST_CASE("argv: a disk that ignores discards says so, and its granularity is passed on") {
  auto disk = disk_spec({{"id", "a"}, {"discard", "ignored"}}, "/s");
  REQUIRE(disk);
  CHECK(device_arguments(*disk, 0)["discard"] == false);
  disk = disk_spec({{"id", "a"}, {"discard", "unspecified"}, {"discard_granularity_bytes", 65536}},
                   "/s");
  REQUIRE(disk);
  CHECK(device_arguments(*disk, 0)["discard"] == true);
  CHECK(device_arguments(*disk, 0)["discard_granularity"] == 65536);
}

TEST_CASE("argv: a CD drive has its own controller, and no medium once it was ejected") {
  Machine m = machine();
  for (const bool medium : {true, false}) {
    const auto disk =
        disk_spec({{"id", "cd"}, {"cdrom", true}, {"medium", medium}, {"read_only", true}}, "/s");
    REQUIRE(disk);
    m.disks.push_back(*disk);
  }
  const auto argv = build_argv(m);
  CHECK(values(argv, "-blockdev").size() == 1);
  CHECK(device_arguments(m.disks[1], 1)["driver"] == "virtio-scsi-pci");
  CHECK(drive_arguments(m.disks[0], 0)["drive"] == node_name(0));
  CHECK_FALSE(drive_arguments(m.disks[1], 1).contains("drive"));
  CHECK(drive_arguments(m.disks[1], 1)["bus"] == device_name(1) + ".0");
  CHECK(count_with(values(argv, "-device"), "scsi-cd") == 2);
  CHECK(port_address(0) == "0000:00:04.0");
  CHECK(port_address(9) == "0000:00:05.1");
}

TEST_CASE("argv: a vhost-user disk is a socket and a device, and the CPUs wait for it") {
  Machine m = machine();
  m.config.cpus = 8;
  CHECK(values(build_argv(m), "-S").empty());
  const auto plain = disk_spec({{"id", "a"}, {"transport", "nbd"}}, "/s");
  const auto fast = disk_spec({{"id", "b"},
                               {"transport", "vhost-user"},
                               {"vhost_socket", "/d/v,host.sock"},
                               {"serial", "S"}},
                              "/s");
  REQUIRE((plain && fast));
  m.disks = {*plain, *fast};
  m.disks[1].boot = true;
  const auto argv = build_argv(m);
  CHECK(values(argv, "-blockdev").size() == 1);
  CHECK(count_with(values(argv, "-chardev"), "socket,id=vu1,path=/d/v,,host.sock,reconnect=1") ==
        1);
  CHECK(std::count(argv.begin(), argv.end(), "-S") == 1);
  const json device = device_arguments(m.disks[1], 1, 8);
  CHECK(count_with(values(argv, "-device"), to_line(device)) == 1);
  CHECK(device["driver"] == "vhost-user-blk-pci");
  CHECK(device["bus"] == "rp1");
  CHECK(device["chardev"] == disk_chardev(1));
  CHECK(device["num-queues"] == 4);
  CHECK(device["bootindex"] == 1);
  // What QEMU cannot know, because the server says it.
  for (const char* key : {"drive", "serial", "logical_block_size", "rerror"})
    CHECK_FALSE(device.contains(key));
  CHECK(device_arguments(m.disks[1], 1, 2)["num-queues"] == 2);
  const json chardev = chardev_arguments(m.disks[1], 1, m.qemu);
  CHECK(chardev["id"] == device["chardev"]);
  CHECK(chardev["backend"]["data"]["addr"]["data"]["path"] == "/d/v,host.sock");
  CHECK(chardev["backend"]["data"]["reconnect"] == 1);
  m.qemu.reconnect_ms = true;
  CHECK(count_with(values(build_argv(m), "-chardev"), ",reconnect-ms=1000") == 1);
  const json newer = chardev_arguments(m.disks[1], 1, m.qemu);
  CHECK(newer["backend"]["data"]["reconnect-ms"] == 1000);
  CHECK_FALSE(newer["backend"]["data"].contains("reconnect"));
}

TEST_CASE("argv: a snapshot's memory is mapped privately, other memory is shared and has no name") {
  Machine m = machine();
  for (const bool restored : {false, true}) {
    m.restored = restored;
    CHECK(count_with(values(build_argv(m), "-object"), "share=on,mem-path=/proc/self/fd/4") == 1);
  }
  m.ram_file = "/snap,1/ram";
  CHECK(count_with(values(build_argv(m), "-object"), "share=off,mem-path=/snap,,1/ram") == 1);
}

TEST_CASE("argv: there are always spare ports, and no address is used twice") {
  for (size_t disks = 0; disks <= k_max_cold_disks; ++disks) {
    CHECK(port_count(disks) >= disks + k_spare_ports);
    CHECK(port_count(disks) <= k_max_ports);
  }
  Machine m = machine();
  m.disks.resize(k_max_cold_disks);
  std::vector<std::string> addresses;
  for (const std::string& device : values(build_argv(m), "-device"))
    if (device.rfind("pcie-root-port", 0) == 0)
      addresses.push_back(device.substr(device.find("addr=")));
  std::sort(addresses.begin(), addresses.end());
  CHECK(std::adjacent_find(addresses.begin(), addresses.end()) == addresses.end());
}

TEST_CASE("argv: a disk's state becomes a spec, bad serials are refused") {
  const auto spec = disk_spec({{"id", "vda"}, {"sector_size", 4096}}, "/s");
  REQUIRE(spec);
  CHECK(spec->serial == "vda");
  CHECK(spec->physical_sector_size == 4096);
  const auto cut = disk_spec({{"id", std::string(64, 'x')}}, "/s");
  REQUIRE(cut);
  CHECK(cut->serial.size() == k_max_serial);
  const auto bad = disk_spec({{"id", "vda"}, {"serial", std::string(21, 's')}}, "/s");
  REQUIRE_FALSE(bad);
  CHECK(bad.error().code == Code::invalid);
  CHECK_FALSE(disk_spec(json::object(), "/s"));
}

TEST_CASE("argv: a seed and a time, as strings of their own") {
  Machine m = machine();
  CHECK(values(build_argv(m), "-seed").empty());
  CHECK(values(build_argv(m), "-rtc").empty());
  m.config.rng_seed = UINT64_MAX;
  m.config.initial_time_ns = 1'000'000'000'123'456'789;
  const auto argv = build_argv(m);
  CHECK(values(argv, "-seed") == std::vector<std::string>{"18446744073709551615"});
  CHECK(values(argv, "-rtc") == std::vector<std::string>{"base=2001-09-09T01:46:40,clock=vm"});
  CHECK(count_with(values(argv, "-device"), "rng=rng") == 1);
}

TEST_CASE("argv: a guest that boots from its disk has no kernel, and firmware that knows disks") {
  Machine m = machine();
  m.profile = Profile{};
  m.profile.name = "debian";
  m.disks.resize(2);
  m.disks[1].boot = true;
  const auto argv = build_argv(m);
  for (const char* option : {"-kernel", "-initrd", "-append", "-bios"})
    CHECK(values(argv, option).empty());
  CHECK_FALSE(device_arguments(m.disks[0], 0).contains("bootindex"));
  CHECK(device_arguments(m.disks[1], 1)["bootindex"] == 1);
}

TEST_CASE("argv: a kernel without initrd") {
  Machine m = machine();
  m.profile.initrd.clear();
  CHECK(values(build_argv(m), "-initrd").empty());
  CHECK(values(build_argv(m), "-kernel").size() == 1);
}
