// SPDX-License-Identifier: MIT
#include "vm/profile/config.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "base/time_text.hpp"
#include "base/units.hpp"
#include "vm/access/clock.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_mib = 1 << 20;
constexpr uint64_t k_min_memory = 16 * k_mib;
constexpr uint64_t k_max_memory = uint64_t{1} << 40;
constexpr uint64_t k_max_cpus = 255;    // of QEMU's x86 machines without an IOMMU
constexpr size_t k_max_cmdline = 2047;  // COMMAND_LINE_SIZE less the terminator, x86
const std::vector<std::string> k_accels = {"auto", "kvm", "tcg"};

}  // namespace

Result<uint64_t> parse_memory(std::string_view what, const std::string& text) {
  auto bytes = parse_size(text);
  if (!bytes) return fail(Code::usage, fmt::format("{}: {}", what, bytes.error().message));
  if (*bytes % k_mib != 0 || *bytes < k_min_memory || *bytes > k_max_memory)
    return fail(Code::usage, fmt::format("{}: '{}' is not a multiple of 1M from 16M to 1T (a "
                                         "number without a suffix is bytes)",
                                         what, text));
  return *bytes;
}

Result<uint64_t> parse_cpus(std::string_view what, const std::string& text) {
  uint64_t cpus = 0;
  bool good = !text.empty() && text.size() <= 3;
  for (char c : text) {
    good = good && c >= '0' && c <= '9';
    if (good) cpus = cpus * 10 + static_cast<uint64_t>(c - '0');
  }
  if (!good || cpus < 1 || cpus > k_max_cpus)
    return fail(Code::usage,
                fmt::format("{}: '{}' is not a number from 1 to {}", what, text, k_max_cpus));
  return cpus;
}

Result<> check_cmdline(std::string_view what, const std::string& text) {
  for (const char c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      return fail(Code::usage,
                  fmt::format("{}: a kernel command line holds no control characters", what));
  if (!is_utf8(text)) return fail(Code::usage, fmt::format("{}: not UTF-8", what));
  if (text.size() > k_max_cmdline)
    return fail(Code::usage, fmt::format("{}: {} bytes are more than the kernel takes ({})", what,
                                         text.size(), k_max_cmdline));
  return {};
}

Result<> apply_options(VmConfig& config, const VmOptions& options) {
  if (!options.profile.empty()) config.profile = options.profile;
  if (!options.memory.empty()) {
    TRY_ASSIGN(config.memory_bytes, parse_memory("--memory", options.memory));
  }
  if (!options.cpus.empty()) {
    TRY_ASSIGN(config.cpus, parse_cpus("--cpus", options.cpus));
  }
  if (options.cmdline) {
    TRY(check_cmdline("--cmdline", *options.cmdline));
    config.cmdline = options.cmdline;
  }
  if (!options.cmdline_append.empty()) {
    TRY(check_cmdline("--cmdline-append", options.cmdline_append));
    config.cmdline_append = options.cmdline_append;
  }
  if (!options.qemu_args.empty()) config.qemu_args = options.qemu_args;
  if (!options.accel.empty()) {
    if (std::find(k_accels.begin(), k_accels.end(), options.accel) == k_accels.end()) {
      const Error error(Code::bad_mode, fmt::format("--accel: unknown mode '{}'; modes: {}",
                                                    options.accel, join(k_accels, " ")));
      return fail(error.with("valid", k_accels));
    }
    config.accel = options.accel;
  }
  if (!options.rng_seed.empty()) {
    TRY_ASSIGN(config.rng_seed, parse_seed("--rng-seed:", options.rng_seed));
  }
  if (!options.initial_time.empty()) {
    TRY_ASSIGN(config.initial_time_ns, parse_time("--initial-time", options.initial_time));
    if (*config.initial_time_ns / k_ns_per_s >= k_agents_end_s)
      return fail(Code::usage, fmt::format("--initial-time: '{}' is after 2069, where what the "
                                           "guest's agent can set ends",
                                           options.initial_time));
  }
  for (const std::string& word : options.files) {
    TRY_ASSIGN(GuestFile file, parse_file_flag(word));
    lay_over(config.files, std::move(file));
  }
  config.no_agent = config.no_agent || options.no_agent;
  return {};
}

json config_to_json(const VmConfig& config) {
  json object = {{"profile", config.profile}, {"accel", config.accel}};
  if (config.memory_bytes) object["memory_bytes"] = *config.memory_bytes;
  if (config.cpus) object["cpus"] = *config.cpus;
  if (config.cmdline) object["cmdline"] = *config.cmdline;
  if (!config.cmdline_append.empty()) object["cmdline_append"] = config.cmdline_append;
  if (!config.qemu_args.empty()) object["qemu_args"] = config.qemu_args;
  if (!config.config_file.empty()) object["config_file"] = config.config_file;
  // Strings: most readers of JSON round above 2^53.
  if (config.rng_seed) object["rng_seed"] = std::to_string(*config.rng_seed);
  if (config.initial_time_ns) object["initial_time_ns"] = std::to_string(*config.initial_time_ns);
  if (!config.files.empty()) object["files"] = files_to_json(config.files);
  if (config.no_agent) object["no_agent"] = true;
  return object;
}

VmConfig config_from_json(const json& object) {
  VmConfig config;
  config.profile = get_string(object, "profile", "tiny");
  config.accel = get_string(object, "accel", "auto");
  if (const uint64_t bytes = get_u64(object, "memory_bytes")) config.memory_bytes = bytes;
  if (const uint64_t cpus = get_u64(object, "cpus")) config.cpus = cpus;
  if (const json* text = find(object, "cmdline"); text && text->is_string())
    config.cmdline = text->get<std::string>();
  config.cmdline_append = get_string(object, "cmdline_append");
  if (const json* args = find(object, "qemu_args"); args && args->is_array())
    for (const json& arg : *args)
      if (arg.is_string()) config.qemu_args.push_back(arg.get<std::string>());
  config.config_file = get_string(object, "config_file");
  if (const auto seed = parse_seed("", get_string(object, "rng_seed"))) config.rng_seed = *seed;
  if (const auto ns = parse_seed("", get_string(object, "initial_time_ns")))
    config.initial_time_ns = *ns;
  if (const json* files = find(object, "files")) config.files = files_from_json(*files);
  config.no_agent = get_bool(object, "no_agent");
  return config;
}

}  // namespace pv::vm
