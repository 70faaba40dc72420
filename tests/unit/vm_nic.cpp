// SPDX-License-Identifier: MIT
// If this fails, guests get network cards in the slots of disks, or are told wrong addresses.

#include "../catch.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "vm/argv.hpp"
#include "vm/lan/nic.hpp"

using namespace pv;
using namespace pv::vm;

namespace {

NicSpec nic(const std::string& lan) {
  NicSpec spec;
  spec.lan = lan;
  spec.socket = "/run/obj/2/p1.sock";
  spec.mac = "52:54:00:00:00:01";
  spec.address = "10.1.2.1";
  spec.hosts = {"10.1.2.1 a." + lan, "10.1.2.2 b." + lan};
  return spec;
}

}  // namespace

TEST_CASE("nic: cards sit behind the disks, and ports are made for them", "[lan]") {
  Machine m;
  m.name = "v";
  m.accel = "tcg";
  m.qemu = {"/usr/bin/qemu", "7.2", true};
  for (const char* id : {"a", "b"}) {
    DiskSpec disk;
    disk.id = disk.serial = id;
    m.disks.push_back(disk);
  }
  m.nics = {nic("net"), nic("other")};
  const std::string line = join(build_argv(m), " ");
  for (const char* part : {R"("id":"nic2")", R"("bus":"rp2")", R"("id":"net3")", R"("bus":"rp3")",
                           R"("path":"/run/obj/2/p1.sock")", R"("mac":"52:54:00:00:00:01")"})
    CHECK(line.find(part) != std::string::npos);
  CHECK(netdev_arguments(m.nics[0], 2)["id"] == nic_arguments(m.nics[0], 2)["netdev"]);
  m.nics.resize(15, nic("x"));
  CHECK(join(build_argv(m), " ").find("id=rp20") != std::string::npos);
}

TEST_CASE("nic: what a supervisor is told of a card is what was meant", "[lan]") {
  NicSpec spec = nic("net");
  spec.up = false;
  CHECK(*nic_from_json(nic_to_json(spec)) == spec);
  CHECK_FALSE(nic_from_json(json::object()));
  json bad = nic_to_json(spec);
  bad["prefix"] = 33;
  CHECK_FALSE(nic_from_json(bad));
}

TEST_CASE("nic: the guest's script reads cards and names", "[lan]") {
  CHECK(nic_script_input({}) == "");
  CHECK(nic_script_input({nic("net")}) ==
        "nic 52:54:00:00:00:01 10.1.2.1 24 255.255.255.0\n"
        "host 10.1.2.1 a.net\nhost 10.1.2.2 b.net\n");
  NicSpec odd = nic("net");
  odd.hosts.clear();
  odd.prefix = 30;
  CHECK(nic_script_input({odd}) == "nic 52:54:00:00:00:01 10.1.2.1 30 255.255.255.252\n");
}
