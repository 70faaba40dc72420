// SPDX-License-Identifier: MIT
// A VM's network card as QEMU and the guest need to know it. A card is in one lan, and is named by
// it: a VM is in a lan once. Written by the commands, read by boot and by the supervisor.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json_fwd.hpp"
#include "base/result.hpp"

namespace pv::vm {

struct NicSpec {
  std::string lan;
  std::string socket;  // of the lan's port; "" where its lan is gone
  std::string mac;     // lower case
  std::string address;
  uint64_t prefix = 24;  // bits of the network
  bool up = true;        // whether the cable is in
  // Lines of /etc/hosts: every member of the lan.
  std::vector<std::string> hosts;

  bool operator==(const NicSpec&) const = default;
};

json nic_to_json(const NicSpec& nic);
Result<NicSpec> nic_from_json(const json& object);

// Arguments of QMP's netdev_add and device_add, and in the same form of -netdev and -device.
json netdev_arguments(const NicSpec& nic, size_t slot);
json nic_arguments(const NicSpec& nic, size_t slot);
std::string netdev_name(size_t slot);
std::string nic_name(size_t slot);

// What sets the cards up inside the guest: a script for /bin/sh, and what it reads.
extern const char* const k_nic_script;  // $1 how often it looks for a card, 10 ms apart
std::string nic_script_input(const std::vector<NicSpec>& nics);

}  // namespace pv::vm
