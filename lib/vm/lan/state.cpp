// SPDX-License-Identifier: MIT
#include "vm/lan/state.hpp"

#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/process.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "lan/server.hpp"
#include "vm/vm_object.hpp"

namespace pv::lan {
namespace {

// 10.1.0.0 to 10.255.255.0; 10.0 is what QEMU's own network for users has.
constexpr uint32_t k_first_subnet = 0x0a010000;
constexpr uint32_t k_subnets = 255 * 256;
constexpr uint32_t k_subnet_size = 256;

// Must never change: addresses are promised to be the same in every run.
uint64_t hash_of(std::string_view text) {
  uint64_t hash = text.size();
  for (const char c : text) hash = mix(hash, static_cast<unsigned char>(c));
  return hash;
}

Member member_from_json(const json& object) {
  Member member;
  member.vm = get_string(object, "vm");
  member.scope = get_string(object, "scope");
  member.dir = get_string(object, "dir");
  member.port = static_cast<PortId>(get_u64(object, "port"));
  member.mac = get_string(object, "mac");
  if (const json* link = find(object, "link")) member.link = link_from_json(*link);
  return member;
}

json member_to_json(const Member& member) {
  return {{"vm", member.vm},     {"scope", member.scope}, {"dir", member.dir},
          {"port", member.port}, {"mac", member.mac},     {"link", link_to_json(member.link)}};
}

}  // namespace

Member* LanState::member(std::string_view vm) {
  const auto found = std::find_if(members.begin(), members.end(),
                                  [&](const Member& each) { return each.vm == vm; });
  return found == members.end() ? nullptr : &*found;
}

std::string address_text(uint32_t address) {
  return fmt::format("{}.{}.{}.{}", address >> 24, address >> 16 & 0xff, address >> 8 & 0xff,
                     address & 0xff);
}

std::string LanState::address(PortId port) const {
  return address_text(subnet + port);
}

Result<PortId> LanState::port_for(const std::string& vm) const {
  const auto member_has = [&](PortId port) {
    return std::any_of(members.begin(), members.end(),
                       [port](const Member& each) { return each.port == port; });
  };
  const auto had = ports.find(vm);
  if (had != ports.end() && !member_has(had->second)) return had->second;
  const auto reserved = [&](PortId port) {
    return std::any_of(ports.begin(), ports.end(),
                       [port](const auto& each) { return each.second == port; });
  };
  for (PortId port = 1; port <= k_max_port; ++port)
    if (!member_has(port) && !reserved(port)) return port;
  for (PortId port = 1; port <= k_max_port; ++port)
    if (!member_has(port)) return port;
  return fail(Code::unsupported, fmt::format("the lan is full: it has {} members", k_max_port));
}

std::string LanState::mac_for(std::string_view lan, std::string_view vm) const {
  for (uint64_t attempt = 0;; ++attempt) {
    const uint64_t hash = mix(mix(hash_of(lan), hash_of(vm)), attempt);
    std::string mac = fmt::format("52:54:00:{:02x}:{:02x}:{:02x}", hash & 0xff, hash >> 8 & 0xff,
                                  hash >> 16 & 0xff);
    const bool taken = std::any_of(members.begin(), members.end(),
                                   [&](const Member& each) { return each.mac == mac; });
    if (!taken) return mac;
  }
}

Result<LanState> load_state(const Object& lan) {
  const auto object = lan.load();
  if (!object)
    return fail(Code::no_such_lan, fmt::format("no lan '{}': it has just been closed", lan.name));
  LanState state;
  state.server = process_from_json(*object);
  state.subnet = static_cast<uint32_t>(get_u64(*object, "subnet"));
  if (const json* members = find(*object, "members"); members && members->is_array())
    for (const json& member : *members) state.members.push_back(member_from_json(member));
  if (const json* ports = find(*object, "ports"); ports && ports->is_object())
    for (const auto& [vm, port] : ports->items())
      if (port.is_number_unsigned()) state.ports[vm] = port.get<PortId>();
  return state;
}

Result<> save_state(const Object& lan, const LanState& state) {
  json object = process_to_json(state.server);
  object["name"] = lan.name;
  object["scope"] = lan.scope;
  object["subnet"] = state.subnet;
  object["ports"] = state.ports;
  object["members"] = json::array();
  for (const Member& member : state.members) object["members"].push_back(member_to_json(member));
  return lan.save(object);
}

Result<uint32_t> choose_subnet(std::string_view lan, const std::vector<uint32_t>& taken) {
  const uint64_t first = hash_of(lan);
  for (uint64_t i = 0; i < k_subnets; ++i) {
    const uint32_t subnet =
        k_first_subnet + static_cast<uint32_t>((first + i) % k_subnets) * k_subnet_size;
    if (std::find(taken.begin(), taken.end(), subnet) == taken.end()) return subnet;
  }
  return fail(Code::unsupported, "all subnets of 10.0.0.0/8 are taken by other lans");
}

vm::NicSpec nic_spec(const Object& lan, const LanState& state, const Member& member) {
  vm::NicSpec nic;
  nic.lan = lan.name;
  nic.socket = port_socket(lan, member.port);
  nic.mac = member.mac;
  nic.address = state.address(member.port);
  nic.prefix = k_prefix;
  nic.up = member.link.up;
  for (const Member& each : state.members)
    nic.hosts.push_back(fmt::format("{} {}.{}", state.address(each.port), each.vm, lan.name));
  return nic;
}

Object lan_of(const json& nic) {
  return Object{"lan", "", "", get_string(nic, "lan"), get_string(nic, "dir")};
}

Result<Object> find_lan(const RunDir& run, std::string_view name) {
  TRY(check_name("lan", name));
  if (auto lan = run.find("lan", "", name)) return *lan;
  return fail(vm::no_such_object(Code::no_such_lan, run, "lan", "lan", name));
}

Result<LockFile> lock_lan(const Object& lan, const Deadline& deadline) {
  auto lock = lan.lock(deadline);
  const bool gone = lock ? !lan.exists() : lock.error().sys_errno == ENOENT;
  if (gone)
    return fail(Code::no_such_lan, fmt::format("no lan '{}': it has just been closed", lan.name));
  return lock;
}

Result<std::vector<vm::NicSpec>> nics_of_vm(const Object& vm, const json& vm_state) {
  std::vector<vm::NicSpec> nics;
  const json* entries = find(vm_state, "nics");
  if (!entries || !entries->is_array()) return nics;
  for (const json& entry : *entries) {
    const Object lan = lan_of(entry);
    if (!lan.exists()) continue;
    TRY_ASSIGN(LanState state, load_state(lan));
    const Member* member = state.member(vm.name);
    if (!member || member->dir != vm.dir) continue;
    if (!is_alive(state.server))
      return fail(Code::server_dead,
                  fmt::format("lan '{}': its switch is gone; detach VM '{}' from it or close it",
                              lan.name, vm.name));
    nics.push_back(nic_spec(lan, state, *member));
  }
  return nics;
}

}  // namespace pv::lan
