// SPDX-License-Identifier: MIT
// Kernel modules: the folder lib/modules/VERSION of a kernel, and the closure of what a list of
// modules depends on, in an order in which they can be loaded one by one. A package that was only
// unpacked has no modules.dep, so the dependencies come from the modules themselves.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "base/json_fwd.hpp"
#include "base/result.hpp"

namespace pv::guest {

// "virtio_rng" for "virtio-rng", "virtio_rng.ko" and "kernel/…/virtio-rng.ko.xz": the kernel takes
// '-' and '_' for the same.
std::string module_name(std::string_view name_or_path);

struct ModuleTree {
  std::string version;
  std::map<std::string, std::string> files;  // name to path
  std::set<std::string> builtin;             // names compiled into the kernel
};

// Walks `dir` (…/lib/modules/VERSION). A folder that does not exist gives an empty tree.
Result<ModuleTree> index_modules(const std::string& dir, const std::string& version);

struct WantedModule {
  std::string name;
  enum class Missing { is_error, is_fine } missing = Missing::is_error;
  // Not loaded at boot, and neither is what only it needs. These come last in a list.
  bool on_demand = false;
};

struct Module {
  std::string name;
  std::string data;                  // unpacked, unsigned, without debug information
  std::vector<std::string> depends;  // names, direct
  std::vector<std::string> aliases;
  bool on_demand = false;
};

struct ModuleSet {
  std::vector<Module> load_order;    // dependencies first
  std::vector<std::string> builtin;  // wanted, but part of the kernel
  std::vector<std::string> missing;  // wanted with is_fine, and not there
};

// Code::usage with near names ("valid") for a module that neither the tree nor the kernel has.
Result<ModuleSet> close_modules(const ModuleTree& tree, const std::vector<WantedModule>& wanted,
                                const Deadline& deadline);

// At most eight names that a person may have meant, best first.
std::vector<std::string> near_names(const ModuleTree& tree, std::string_view name);

}  // namespace pv::guest
