// SPDX-License-Identifier: MIT
// What a person asks of a VM: the options of `create` and `boot`, kept in state.json under
// "config". Boot's options win over create's key by key, both over the profile's defaults.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json_fwd.hpp"
#include "base/result.hpp"

namespace pv::vm {

// As typed; empty means not given.
struct VmOptions {
  std::string profile;
  std::string memory;
  std::string cpus;
  std::optional<std::string> cmdline;  // replaces the profile's; may be ""
  std::string cmdline_append;
  std::vector<std::string> qemu_args;
  std::string accel;
};

struct VmConfig {
  std::string profile = "tiny";
  std::optional<uint64_t> memory_bytes;  // nullopt: the profile's
  std::optional<uint64_t> cpus;
  std::optional<std::string> cmdline;
  std::string cmdline_append;
  std::vector<std::string> qemu_args;
  std::string accel = "auto";
};

// Lays `options` over `config`. Code::usage (Code::bad_mode for --accel) names the flag.
Result<> apply_options(VmConfig& config, const VmOptions& options);

json config_to_json(const VmConfig& config);
VmConfig config_from_json(const json& object);

}  // namespace pv::vm
