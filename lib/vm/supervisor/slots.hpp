// SPDX-License-Identifier: MIT
// Which disk sits in which slot of a running VM, as its supervisor keeps it.
#pragma once

#include <algorithm>
#include <map>
#include <string>

namespace pv::vm {

struct PluggedDisk {
  std::string id;
  bool vhost_user = false;
};
using Slots = std::map<size_t, PluggedDisk>;

inline bool has_vhost_user(const Slots& slots) {
  return std::any_of(slots.begin(), slots.end(),
                     [](const auto& slot) { return slot.second.vhost_user; });
}

}  // namespace pv::vm
