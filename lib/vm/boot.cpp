// SPDX-License-Identifier: MIT
#include "vm/boot.hpp"

#include <fcntl.h>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/process.hpp"
#include "base/text.hpp"
#include "vm/boot_disks.hpp"
#include "vm/client.hpp"
#include "vm/hardware.hpp"
#include "vm/lan/lan.hpp"
#include "vm/profile/initrd_files.hpp"
#include "vm/supervise.hpp"
#include "vm/supervisor/supervisor.hpp"
#include "vm/vm_object.hpp"

namespace pv::vm {
namespace {

constexpr const char* k_own_initrd = "initrd";  // the profile's, and the VM's files

// Where the profile is looked up: as before, unless this command names a profile or a file.
Result<> choose_config(VmConfig& config, const VmOptions& options) {
  if (options.profile.empty() && options.config_file.empty()) return {};
  config.config_file.clear();
  if (config.profile == k_tiny && options.config_file.empty()) return {};
  TRY_ASSIGN(config.config_file, find_config(options.config_file));
  return {};
}

// What does not go together, whichever of profile, create and boot it is from.
Result<> check_options(const VmConfig& config, const Profile& profile) {
  if (!profile.boots_from_disk()) return {};
  if (config.cmdline || !config.cmdline_append.empty())
    return fail(Code::usage,
                fmt::format("profile '{}' boots from its disk, whose boot loader has the kernel's "
                            "command line: --cmdline and --cmdline-append do not reach it",
                            profile.name));
  const bool has_files = !config.files.empty() || !profile.files.empty();
  if (has_files && (config.no_agent || !profile.agent))
    return fail(Code::usage,
                fmt::format("profile '{}' boots from its disk: files get in through the guest "
                            "agent, which this boot does without",
                            profile.name));
  return {};
}

std::vector<GuestFile> all_files(const VmConfig& config, const Profile& profile) {
  std::vector<GuestFile> files = profile.files;
  for (const GuestFile& file : config.files) lay_over(files, file);
  return files;
}

// Everything that can be known to fail is found here, before anything is started. The disks are
// still missing.
Result<Machine> plan_machine(const RunDir& run, const Object& vm, const VmConfig& config) {
  Machine machine;
  machine.name = vm.name;
  machine.dir = vm.dir;
  machine.config = config;
  TRY_ASSIGN(machine.profile, load_profile(config.profile, config.config_file));
  TRY(check_options(config, machine.profile));
  TRY(check_files(all_files(config, machine.profile)));
  TRY_ASSIGN(machine.qemu, find_qemu(run));
  TRY_ASSIGN(machine.accel, choose_accel(config.accel));
  return machine;
}

Result<> check_room(const Machine& machine) {
  const size_t devices = machine.disks.size() + machine.nics.size();
  if (devices > k_max_cold_disks)
    return fail(Code::unsupported, fmt::format("VM '{}': {} disks and network cards are more than "
                                               "the {} that a VM can have",
                                               machine.name, devices, k_max_cold_disks));
  return {};
}

void choose_boot_disk(Machine& machine) {
  for (const ProfileDisk& disk : machine.profile.disks)
    for (DiskSpec& spec : machine.disks) spec.boot = spec.boot || (disk.boot && spec.id == disk.id);
}

// The files go into the initial RAM disk, or wait for the guest's agent.
Result<> place_files(const Object& vm, Machine& machine, BootPlan& plan) {
  const std::vector<GuestFile> files = all_files(machine.config, machine.profile);
  if (files.empty()) return {};
  TRY_ASSIGN(std::vector<guest::UserFile> loaded, load_files(files));
  if (machine.profile.boots_from_disk()) {
    plan.work.files = std::move(loaded);
    return {};
  }
  const std::string initrd = vm.path(k_own_initrd);
  TRY(write_initrd(machine.profile.initrd, loaded, initrd, Deadline::in_ns(plan.timeout_ns)));
  machine.profile.initrd = initrd;
  return {};
}

VmConfig config_of(const json& state) {
  const json* config = find(state, "config");
  return config_from_json(config ? *config : json::object());
}

// What this boot came to, for the documents.
void record(const Machine& machine, BootPlan& plan) {
  json& state = plan.state;
  const Profile& profile = machine.profile;
  state["profile"] = machine.config.profile;
  state["config"] = config_to_json(machine.config);
  state["accel"] = machine.accel;
  state["memory_bytes"] = memory_bytes(machine);
  state["cpus"] = cpus(machine);
  state["qemu_version"] = machine.qemu.version;
  state["argv"] = plan.argv;
  state["ports"] = plan.ports;
  state["hardware"] = hardware_to_json(machine);
  for (const char* key : {"kernel_version", "kernel_cmdline", "guest_os", "files", "no_agent"})
    state.erase(key);
  if (!profile.kernel_version.empty()) state["kernel_version"] = profile.kernel_version;
  if (!profile.boots_from_disk()) state["kernel_cmdline"] = kernel_cmdline(machine);
  if (!profile.guest_os.empty()) state["guest_os"] = profile.guest_os;
  if (plan.no_agent) state["no_agent"] = true;
  if (const auto files = all_files(machine.config, profile); !files.empty())
    state["files"] = files_to_json(files);
}

// A VM that has shut down stays that when booting it again fails, and end.json is gone by then.
Result<> forget_last_boot(const Object& vm, json& state) {
  const std::string now = actual_state(vm, state);
  if (now == get_string(state, "state")) return {};
  forget_boot(state, now);
  return vm.save(state);
}

// Under the VM's lock. The network cards that it has booted with.
Result<std::vector<NicSpec>> boot_locked(const RunDir& run, const Object& vm,
                                         const VmOptions& options, uint64_t timeout_ns) {
  BootPlan plan;
  plan.started_ns = system_clock().now_ns();
  plan.timeout_ns = timeout_ns;
  TRY_ASSIGN(const LockFile lock, lock_vm(vm, Deadline::in_ns(timeout_ns)));
  TRY_ASSIGN(plan.state, vm.load());
  TRY(require_state(vm, plan.state, "boot", {"created", "shutdown"}));
  TRY(forget_last_boot(vm, plan.state));
  VmConfig config = config_of(plan.state);
  TRY(apply_options(config, options));
  TRY(choose_config(config, options));
  TRY_ASSIGN(Machine machine, plan_machine(run, vm, config));
  TRY(place_files(vm, machine, plan));
  TRY_ASSIGN(RunDir home, RunDir::open(vm.scope));
  BootDisks disks(std::move(home), vm);
  TRY(disks.make(machine.profile, plan.state, Deadline::in_ns(timeout_ns)));
  TRY_ASSIGN(machine.disks, cold_disks(run, vm, plan.state));
  TRY_ASSIGN(machine.nics, lan::nics_of_vm(vm, plan.state));
  TRY(check_room(machine));
  choose_boot_disk(machine);
  plan.vm = vm;
  plan.no_agent = config.no_agent || !machine.profile.agent;
  plan.work.initial_time_ns = config.initial_time_ns;
  plan.argv = build_argv(machine);
  place_devices(machine, plan);
  record(machine, plan);
  TRY(supervise(std::move(plan), lock));
  disks.keep();
  return machine.nics;
}

}  // namespace

Result<json> create_vm(const RunDir& run, const std::string& name, const VmOptions& options) {
  VmConfig config;
  TRY(apply_options(config, options));
  TRY(choose_config(config, options));
  TRY_ASSIGN(const Profile profile, find_profile(config.profile, config.config_file));
  TRY(check_options(config, profile));
  json state = {{"name", name},
                {"scope", run.scope()},
                {"profile", config.profile},
                {"state", "created"},
                {"config", config_to_json(config)},
                {"disks", json::array()}};
  if (config.memory_bytes) state["memory_bytes"] = *config.memory_bytes;
  if (config.cpus) state["cpus"] = *config.cpus;
  TRY_ASSIGN(const Object vm, run.create("vm", "", name, &state));
  return vm_document(vm, state);
}

Result<json> boot_vm(const RunDir& run, const Object& vm, const VmOptions& options,
                     uint64_t timeout_ns) {
  const Deadline deadline = Deadline::in_ns(timeout_ns);
  TRY_ASSIGN(const std::vector<NicSpec> nics, boot_locked(run, vm, options, timeout_ns));
  if (!nics.empty()) lan::catch_up(vm, nics, deadline);
  return vm_document(vm);
}

Result<json> vm_argv(const RunDir& run, const Object& vm) {
  TRY_ASSIGN(const json state, vm.load());
  if (const json* argv = find(state, "argv")) return *argv;
  TRY_ASSIGN(Machine machine, plan_machine(run, vm, config_of(state)));
  TRY_ASSIGN(std::vector<DiskSpec> disks, cold_disks(run, vm, state));
  machine.disks = planned_disks(machine.profile, state, std::move(disks));
  TRY_ASSIGN(machine.nics, lan::nics_of_vm(vm, state));
  choose_boot_disk(machine);
  if (!all_files(machine.config, machine.profile).empty() && !machine.profile.boots_from_disk())
    machine.profile.initrd = vm.path(k_own_initrd);
  return json(build_argv(machine));
}

}  // namespace pv::vm
