// SPDX-License-Identifier: MIT
// What a person asks of a VM: the options of `create` and `boot`, kept in state.json under
// "config". Boot's options win over create's key by key, both over the profile's defaults.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json_fwd.hpp"
#include "base/result.hpp"
#include "vm/profile/guest_file.hpp"

namespace pv::vm {

// As typed; empty means not given.
struct VmOptions {
  std::string profile;
  std::string config_file;
  std::string memory;
  std::string cpus;
  std::optional<std::string> cmdline;  // replaces the profile's; may be ""
  std::string cmdline_append;
  std::vector<std::string> qemu_args;
  std::string accel;
  std::string rng_seed;
  std::string initial_time;
  std::vector<std::string> files;
  bool no_agent = false;
};

struct VmConfig {
  std::string profile = "tiny";
  std::string config_file;               // where the profile is from: absolute; "" for built in
  std::optional<uint64_t> memory_bytes;  // nullopt: the profile's
  std::optional<uint64_t> cpus;
  std::optional<std::string> cmdline;
  std::string cmdline_append;
  std::vector<std::string> qemu_args;
  std::string accel = "auto";
  std::optional<uint64_t> rng_seed;         // the same bytes from virtio-rng at each boot
  std::optional<uint64_t> initial_time_ns;  // what the guest's clock shows when it is switched on
  std::vector<GuestFile> files;             // besides the profile's
  bool no_agent = false;                    // boot does not wait for it
};

// Lays `options` over `config`. Code::usage (Code::bad_mode for --accel) names the flag.
Result<> apply_options(VmConfig& config, const VmOptions& options);

// What options and profiles have in common. `what` starts the message of a Code::usage.
Result<uint64_t> parse_memory(std::string_view what, const std::string& text);
Result<uint64_t> parse_cpus(std::string_view what, const std::string& text);
Result<> check_cmdline(std::string_view what, const std::string& text);

json config_to_json(const VmConfig& config);
VmConfig config_from_json(const json& object);

}  // namespace pv::vm
