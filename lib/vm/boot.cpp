// SPDX-License-Identifier: MIT
#include "vm/boot.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/process.hpp"
#include "base/text.hpp"
#include "vm/client.hpp"
#include "vm/lan.hpp"
#include "vm/supervisor.hpp"
#include "vm/vm_object.hpp"

namespace pv::vm {
namespace {

// The supervisor reports a boot that takes too long itself; this is for one that is stuck.
constexpr uint64_t k_report_slack_ns = 15 * k_ns_per_s;
constexpr uint64_t k_supervisor_grace_ns = 3 * k_ns_per_s;

// The disks in their order, each with a living server: a dead one would show as a hang in the
// guest.
Result<std::vector<DiskSpec>> cold_disks(const RunDir& run, const Object& vm, const json& state) {
  std::vector<DiskSpec> disks;
  const json* ids = find(state, "disks");
  if (!ids || !ids->is_array()) return disks;
  for (const json& item : *ids) {
    const std::string id = item.is_string() ? item.get<std::string>() : "";
    const auto object = run.find("disk", vm.name, id);
    const auto disk = object ? object->load() : fail(Code::no_such_disk, "");
    if (!disk) return fail(Code::no_such_disk, fmt::format("VM '{}': no disk '{}'", vm.name, id));
    const bool alive = !find(*disk, "start_ticks") || is_alive(process_from_json(*disk));
    struct stat st {};
    const std::string socket = object->path("nbd.sock");
    if (!alive || stat(socket.c_str(), &st) < 0)
      return fail(Code::server_dead,
                  fmt::format("disk '{}': its server is gone; detach it or attach it anew",
                              object->display()));
    TRY_ASSIGN(DiskSpec spec, disk_spec(*disk, socket));
    disks.push_back(std::move(spec));
  }
  return disks;
}

// Everything that can be known to fail is found here, before anything is started.
Result<Machine> plan_machine(const RunDir& run, const Object& vm, const json& state,
                             const VmConfig& config) {
  Machine machine;
  machine.name = vm.name;
  machine.dir = vm.dir;
  machine.config = config;
  TRY_ASSIGN(machine.profile, load_profile(config.profile));
  TRY_ASSIGN(machine.qemu, find_qemu(run));
  TRY_ASSIGN(machine.accel, choose_accel(config.accel));
  TRY_ASSIGN(machine.disks, cold_disks(run, vm, state));
  TRY_ASSIGN(machine.nics, lan::nics_of_vm(vm, state));
  const size_t devices = machine.disks.size() + machine.nics.size();
  if (devices > k_max_cold_disks)
    return fail(Code::unsupported, fmt::format("VM '{}': {} disks and network cards are more than "
                                               "the {} that a VM can have",
                                               vm.name, devices, k_max_cold_disks));
  return machine;
}

VmConfig config_of(const json& state) {
  const json* config = find(state, "config");
  return config_from_json(config ? *config : json::object());
}

// A VM that has shut down stays that when booting it again fails, and end.json is gone by then.
Result<> forget_last_boot(const Object& vm, json& state) {
  const std::string now = actual_state(vm, state);
  if (now == get_string(state, "state")) return {};
  state["state"] = now;
  for (const char* key : {"qemu", "supervisor", "booted_ns", "boot_ms"}) state.erase(key);
  return vm.save(state);
}

Result<> supervise(BootPlan plan) {
  const Object vm = plan.vm;
  const uint64_t timeout_ns = plan.timeout_ns;
  const Deadline deadline = Deadline::in_ns(timeout_ns + k_report_slack_ns);
  TRY_ASSIGN(const Daemon daemon,
             start_daemon(vm.path(k_supervisor_log), [plan = std::move(plan)](Fd ready) mutable {
               return Supervisor::run(std::move(plan), std::move(ready));
             }));
  auto message = read_ready(daemon, deadline);
  auto report = message ? parse_json(*message) : Result<json>(fail(message.error()));
  if (report && !find(*report, "error")) return {};
  // QEMU dies with its supervisor, so this leaves nothing.
  static_cast<void>(terminate(daemon.id, k_supervisor_grace_ns));
  if (report) return fail(error_from_json((*report)["error"]));
  if (!message) return fail(message.error());
  std::string words = tail_of_file(vm.path(k_supervisor_log), k_console_tail_bytes);
  return fail(Code::guest_died, fmt::format("VM '{}': its supervisor ended before the guest had "
                                            "booted{}{}",
                                            vm.name, words.empty() ? "" : ": ", words));
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
  TRY_ASSIGN(const Machine machine, plan_machine(run, vm, plan.state, config));
  plan.vm = vm;
  plan.argv = build_argv(machine);
  plan.ports = port_count(machine.disks.size() + machine.nics.size());
  plan.nics = machine.nics;
  for (const DiskSpec& disk : machine.disks) plan.disks.push_back(disk.id);
  json& state = plan.state;
  state["profile"] = config.profile;
  state["config"] = config_to_json(config);
  state["accel"] = machine.accel;
  state["memory_bytes"] = memory_bytes(machine);
  state["cpus"] = cpus(machine);
  state["qemu_version"] = machine.qemu.version;
  if (!machine.profile.kernel_version.empty())
    state["kernel_version"] = machine.profile.kernel_version;
  state["argv"] = plan.argv;
  state["ports"] = plan.ports;
  TRY(supervise(std::move(plan)));
  return machine.nics;
}

}  // namespace

Result<json> create_vm(const RunDir& run, const std::string& name, const VmOptions& options) {
  VmConfig config;
  TRY(apply_options(config, options));
  TRY(check_profile_name(config.profile));
  TRY_ASSIGN(const Object vm, run.create("vm", "", name));
  json state = {{"name", vm.name},
                {"scope", vm.scope},
                {"profile", config.profile},
                {"state", "created"},
                {"config", config_to_json(config)},
                {"disks", json::array()}};
  if (config.memory_bytes) state["memory_bytes"] = *config.memory_bytes;
  if (config.cpus) state["cpus"] = *config.cpus;
  if (auto saved = vm.save(state); !saved) {
    run.remove(vm);
    return fail(saved.error());
  }
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
  TRY_ASSIGN(const Machine machine, plan_machine(run, vm, state, config_of(state)));
  return json(build_argv(machine));
}

}  // namespace pv::vm
