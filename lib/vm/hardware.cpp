// SPDX-License-Identifier: MIT
#include "vm/hardware.hpp"

#include <algorithm>
#include <sys/utsname.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"

namespace pv::vm {
namespace {

constexpr size_t k_max_cpuinfo = 1 << 20;
constexpr uint64_t k_max_cpus = 4096;

std::string cpuinfo_value(const std::string& text, std::string_view key) {
  const size_t at = text.find(key);
  if (at == std::string::npos) return "";
  const size_t colon = text.find(':', at), end = text.find('\n', at);
  if (colon == std::string::npos || end < colon) return "";
  return text.substr(colon + 1, end - colon - 1);
}

}  // namespace

std::string host_cpu(const std::string& accel, const std::string& cpuinfo) {
  if (accel != "kvm") return "";
  const std::string text = read_file(cpuinfo, k_max_cpuinfo).value_or("");
  return cpuinfo_value(text, "model name") + cpuinfo_value(text, "flags");
}

json kvm_host(const std::string& cpuinfo) {
  const std::string text = read_file(cpuinfo, k_max_cpuinfo).value_or("");
  const std::string model = cpuinfo_value(text, "model name");
  utsname host{};
  uname(&host);
  const bool is_virtual = (cpuinfo_value(text, "flags") + " ").find(" hypervisor ") != text.npos;
  return {{"processor", model.substr(std::min(model.find_first_not_of(' '), model.size()))},
          {"flags", cpuinfo_value(text, "flags")},
          {"virtual", is_virtual},
          {"kernel", host.release}};
}

json hardware_to_json(const Machine& m) {
  std::vector<std::string> qemu_args = m.profile.qemu_args;
  qemu_args.insert(qemu_args.end(), m.config.qemu_args.begin(), m.config.qemu_args.end());
  json hardware = {{"machine", m.profile.machine},
                   {"accel", m.accel},
                   {"qemu_version", m.qemu.version},
                   {"memory_bytes", memory_bytes(m)},
                   {"cpus", cpus(m)},
                   {"kernel", m.profile.kernel},
                   {"initrd", m.profile.initrd},
                   {"cmdline", m.profile.boots_from_disk() ? "" : kernel_cmdline(m)},
                   {"qemu_args", qemu_args}};
  if (const std::string cpu = host_cpu(m.accel); !cpu.empty()) hardware["host_cpu"] = cpu;
  if (m.config.rng_seed) hardware["rng_seed"] = std::to_string(*m.config.rng_seed);
  if (m.config.initial_time_ns)
    hardware["initial_time_ns"] = std::to_string(*m.config.initial_time_ns);
  for (const DiskSpec& disk : m.disks)
    if (disk.boot) hardware["boot_disk"] = disk.id;
  return hardware;
}

Result<> hardware_from_json(const json& hardware, Machine& m) {
  const auto corrupt = [](const char* key) {
    return fail(Code::snapshot_corrupt,
                fmt::format("the machine's description has no usable \"{}\"", key));
  };
  m.profile = Profile{};
  m.config = VmConfig{};
  m.profile.machine = get_string(hardware, "machine");
  m.accel = get_string(hardware, "accel");
  m.profile.kernel = get_string(hardware, "kernel");
  m.profile.initrd = get_string(hardware, "initrd");
  m.config.cmdline = get_string(hardware, "cmdline");
  m.config.memory_bytes = get_u64(hardware, "memory_bytes");
  m.config.cpus = get_u64(hardware, "cpus");
  if (m.profile.machine.empty()) return corrupt("machine");
  if (m.accel != "tcg" && m.accel != "kvm") return corrupt("accel");
  if (*m.config.memory_bytes < (1 << 20) || *m.config.memory_bytes % (1 << 20) != 0)
    return corrupt("memory_bytes");
  if (*m.config.cpus == 0 || *m.config.cpus > k_max_cpus) return corrupt("cpus");
  if (const json* args = find(hardware, "qemu_args"); args && args->is_array())
    for (const json& arg : *args) {
      if (!arg.is_string()) return corrupt("qemu_args");
      m.config.qemu_args.push_back(arg.get<std::string>());
    }
  const auto number = [&](const char* key, std::optional<uint64_t>& value) {
    if (find(hardware, key)) value = std::strtoull(get_string(hardware, key).c_str(), nullptr, 10);
  };
  number("rng_seed", m.config.rng_seed);
  number("initial_time_ns", m.config.initial_time_ns);
  const std::string boot_disk = get_string(hardware, "boot_disk");
  for (DiskSpec& disk : m.disks) disk.boot = !boot_disk.empty() && disk.id == boot_disk;
  return {};
}

}  // namespace pv::vm
