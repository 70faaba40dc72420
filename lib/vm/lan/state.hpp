// SPDX-License-Identifier: MIT
// A lan as an object of the run directory, and what its state.json says: the subnet, the members,
// and the number that each name has had, so that a VM that comes back gets its address again.
// state.json belongs to whoever holds the object's lock. A VM's own state.json names its lans under
// "nics": [{"lan","dir","mac","address"}]; the lan has the last word.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "base/json_fwd.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"
#include "lan/switch.hpp"
#include "vm/lan/nic.hpp"

namespace pv::lan {

struct Member {
  std::string vm;
  std::string scope;
  std::string dir;  // of the VM's object: another VM of this name is another VM
  PortId port = 0;  // the last byte of its address
  std::string mac;
  LinkSettings link;

  Object object() const { return Object{"vm", scope, "", vm, dir}; }
  bool exists() const { return object().exists(); }
};

struct LanState {
  ProcessId server;
  uint32_t subnet = 0;  // its first address
  std::vector<Member> members;
  std::map<std::string, PortId> ports;  // by name of the VM, also of those that have left

  Member* member(std::string_view vm);
  std::string address(PortId port) const;
  // The port for a VM of this name: the one that it had, else the lowest that nobody has or had.
  // Code::unsupported when the lan is full.
  Result<PortId> port_for(const std::string& vm) const;
  // An address that no member has, always the same for these names.
  std::string mac_for(std::string_view lan, std::string_view vm) const;
};

constexpr uint64_t k_prefix = 24;
constexpr PortId k_max_port = 254;

Result<LanState> load_state(const Object& lan);
Result<> save_state(const Object& lan, const LanState& state);
std::string address_text(uint32_t address);

// The subnet of a lan by its name, or the next one that is not in `taken`.
Result<uint32_t> choose_subnet(std::string_view lan, const std::vector<uint32_t>& taken);

// A member's card as the supervisor and boot need it.
vm::NicSpec nic_spec(const Object& lan, const LanState& state, const Member& member);

// The lan that an entry of a VM's "nics" is about; it may be gone.
Object lan_of(const json& nic);

// Code::no_such_lan lists the names that there are.
Result<Object> find_lan(const RunDir& run, std::string_view name);
// The lan's lock, with the lan still there once it is held.
Result<LockFile> lock_lan(const Object& lan, const Deadline& deadline);

// The cards that a VM is to boot with. A lan that is gone is left out; Code::server_dead for one
// whose switch is.
Result<std::vector<vm::NicSpec>> nics_of_vm(const Object& vm, const json& vm_state);

}  // namespace pv::lan
