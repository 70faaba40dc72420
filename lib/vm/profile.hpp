// SPDX-License-Identifier: MIT
// Profiles: which kernel, initrd and command line a VM boots. Built in is `tiny`, whose files
// `pv-vm guest build` makes; $PV_GUEST_DIR names a folder with `kernel` and `initrd` to use
// instead.
#pragma once

#include <string>
#include <vector>

#include "base/result.hpp"

namespace pv::vm {

struct Profile {
  std::string name;
  std::string kernel;  // absolute paths
  std::string initrd;
  std::string cmdline;
  std::string kernel_version;  // "" when not known
  std::string machine = "q35";
  uint64_t memory_bytes = uint64_t{256} << 20;
  uint64_t cpus = 1;
  std::vector<std::string> qemu_args;
};

std::vector<std::string> profile_names();

// Code::invalid for a name that does not exist, listing those that do.
Result<> check_profile_name(const std::string& name);

// The profile with its files looked for. Code::unavailable when `tiny` was never built, or when a
// file is missing: the message names field and path.
Result<Profile> load_profile(const std::string& name);

}  // namespace pv::vm
