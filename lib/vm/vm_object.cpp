// SPDX-License-Identifier: MIT
#include "vm/vm_object.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/process.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "vm/argv.hpp"

namespace pv::vm {
namespace {

constexpr size_t k_max_end = 1 << 20;
constexpr uint64_t k_end_ns = 10 * k_ns_per_s;
constexpr uint64_t k_vm_object_look_ns = 2 * k_ns_per_ms;
constexpr size_t k_max_names = 20;  // in a message

json read_end(const Object& vm) {
  auto text = read_file(vm.path(k_end_file), k_max_end);
  if (!text) return json::object();
  auto end = parse_json(*text);
  return end && end->is_object() ? *end : json::object();
}

bool process_alive(const json& state, const char* key) {
  const json* process = find(state, key);
  return process && process->is_object() && is_alive(process_from_json(*process));
}

json pid_of(const json& state, const char* key) {
  const json* process = find(state, key);
  return process && process->is_object() ? json(get_u64(*process, "pid")) : json();
}

json lans_of(const json& state) {
  json lans = json::array();
  const json* nics = find(state, "nics");
  if (!nics || !nics->is_array()) return lans;
  for (const json& nic : *nics)
    if (Object{"lan", "", "", "", get_string(nic, "dir")}.exists())
      lans.push_back({{"name", get_string(nic, "lan")},
                      {"mac", get_string(nic, "mac")},
                      {"address", get_string(nic, "address")}});
  return lans;
}

}  // namespace

Result<Object> find_vm(const RunDir& run, std::string_view name) {
  TRY(check_name("vm", name));
  if (auto vm = run.find("vm", "", name)) return *vm;
  return fail(no_such_object(Code::no_such_vm, run, "vm", "VM", name));
}

Error no_such_object(Code code, const RunDir& run, std::string_view kind, std::string_view what,
                     std::string_view name) {
  std::vector<std::string> names;
  for (const Object& object : run.list(kind))
    if (names.size() < k_max_names) names.push_back(object.name);
  const std::string known = names.empty() ? "there is none" : "there are: " + join(names, " ");
  return Error(code, fmt::format("no {} '{}' in scope '{}' ({})", what, name, run.scope(), known))
      .with("valid", names);
}

Result<LockFile> lock_vm(const Object& vm, const Deadline& deadline) {
  const auto gone = [&] {
    return fail(Code::no_such_vm, fmt::format("no VM '{}': it has just been closed", vm.name));
  };
  auto lock = vm.lock(deadline);
  if (!lock && lock.error().sys_errno == ENOENT) return gone();
  if (lock && !vm.exists()) return gone();
  return lock;
}

bool is_running(std::string_view state) {
  return state == "booted" || state == "paused";
}

std::string actual_state(const Object& vm, const json& state) {
  const std::string recorded = get_string(state, "state", "created");
  if (!is_running(recorded)) return restore_interrupted(state) ? "dead" : recorded;
  const bool supervised = process_alive(state, "supervisor");
  if (supervised && process_alive(state, "qemu"))
    return access(vm.path(k_paused_mark).c_str(), F_OK) == 0 ? "paused" : "booted";
  // QEMU has ended just now, and its supervisor is about to write down how.
  const Deadline deadline = Deadline::in_ns(k_end_ns);
  while (access(vm.path(k_end_file).c_str(), F_OK) < 0 && !deadline.passed() &&
         process_alive(state, "supervisor"))
    sleep_ns(k_vm_object_look_ns);
  return get_string(read_end(vm), "state", "dead");
}

// As text: it is not one of the processes that a close has to end.
void mark_restoring(json& state) {
  const ProcessId self = identify(getpid()).value_or(ProcessId{getpid(), 0});
  state["restoring"] = fmt::format("{} {}", self.pid, self.start_ticks);
}

bool restore_interrupted(const json& state) {
  const std::vector<std::string> words = split(get_string(state, "restoring"), ' ');
  if (words.size() != 2) return false;
  const ProcessId process{static_cast<pid_t>(std::strtol(words[0].c_str(), nullptr, 10)),
                          std::strtoull(words[1].c_str(), nullptr, 10)};
  return !is_alive(process);
}

void forget_boot(json& state, std::string_view now) {
  state["state"] = now;
  for (const char* key :
       {"qemu", "supervisor", "booted_ns", "boot_ms", "restored_from", "ram", "restoring"})
    state.erase(key);
}

Result<json> vm_document(const Object& vm) {
  auto state = vm.load();
  if (!state && state.error().sys_errno == ENOENT)
    return fail(Code::no_such_vm, fmt::format("no VM '{}': it has just been closed", vm.name));
  if (!state) return fail(state.error());
  return vm_document(vm, *state);
}

json vm_document(const Object& vm, const json& state) {
  const std::string now = actual_state(vm, state);
  const auto copy = [&](const char* key) {
    const json* value = find(state, key);
    return value ? *value : json();
  };
  json document = {{"name", vm.name},
                   {"scope", vm.scope},
                   {"profile", get_string(state, "profile")},
                   {"state", now},
                   {"pid", is_running(now) ? pid_of(state, "qemu") : json()},
                   {"cid", nullptr},
                   {"accel", copy("accel")},
                   {"disks", find(state, "disks") ? state["disks"] : json::array()},
                   {"lans", lans_of(state)},
                   // Of one that runs only its supervisor knows, see accounting.hpp.
                   {"quiescent", is_running(now) ? json() : json(true)},
                   {"open_files", is_running(now) ? json() : json(0)},
                   {"open_streams", is_running(now) ? json() : json(0)},
                   {"qmp", nullptr},
                   {"console", vm.path(k_console_log)},
                   {"memory_bytes", copy("memory_bytes")},
                   {"cpus", copy("cpus")}};
  if (is_running(now)) {
    document["qmp"] = vm.path(k_user_qmp);
    document["supervisor_pid"] = pid_of(state, "supervisor");
    const uint64_t booted_ns = get_u64(state, "booted_ns");
    document["uptime_ms"] = (system_clock().now_ns() - booted_ns) / k_ns_per_ms;
  }
  if (const json* config = find(state, "config"))
    for (const char* key : {"cmdline", "cmdline_append", "qemu_args", "config_file", "rng_seed",
                            "initial_time_ns", "files", "no_agent"})
      if (const json* value = find(*config, key)) document[key] = *value;
  for (const char* key : {"kernel_cmdline", "guest_os", "files", "no_agent"})
    if (const json* value = find(state, key)) document[key] = *value;
  for (const char* key : {"boot_ms", "restored_from", "ram"})
    if (const json* value = find(state, key)) document[key] = *value;
  if (find(state, "kernel_version")) document["kernel_version"] = state["kernel_version"];
  if (restore_interrupted(state)) document["reason"] = "its restore was killed";
  const std::string recorded = get_string(state, "state");
  if (is_running(recorded) && !is_running(now)) {
    json end = read_end(vm);
    if (end.empty()) end["reason"] = "its supervisor was killed";
    for (const char* key : {"reason", "exit_status", "signal", "stderr", "console_tail"})
      if (const json* value = find(end, key)) document[key] = *value;
  }
  return document;
}

Result<> require_state(const Object& vm, const json& state, std::string_view verb,
                       const std::vector<std::string>& allowed) {
  const std::string now = actual_state(vm, state);
  if (std::find(allowed.begin(), allowed.end(), now) != allowed.end()) return {};
  const std::string reason = get_string(vm_document(vm, state), "reason");
  const std::string message =
      fmt::format("VM '{}' is {}{}; {} needs it {}", vm.name, now,
                  reason.empty() ? "" : fmt::format(" ({})", reason), verb, join(allowed, " or "));
  return fail(Error(Code::wrong_state, message).with("state", now).with("allowed", allowed));
}

Error guest_died_error(const Object& vm, std::string_view during) {
  auto state = vm.load();
  if (!state)
    return Error(Code::guest_died, fmt::format("VM '{}' was closed during {}", vm.name, during));
  const json end = read_end(vm);
  const std::string reason = get_string(end, "reason", "its supervisor was killed");
  const std::string text = fmt::format("VM '{}' ended during {}: {}", vm.name, during, reason);
  return Error(Code::guest_died, text)
      .with("console", tail_of_file(vm.path(k_console_log), k_console_tail_bytes));
}

}  // namespace pv::vm
