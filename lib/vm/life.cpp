// SPDX-License-Identifier: MIT
#include "vm/life.hpp"

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/process.hpp"
#include "base/text.hpp"
#include "vm/client.hpp"
#include "vm/vm_object.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_quit_ns = 7 * k_ns_per_s;  // the supervisor gives QEMU 5 s
constexpr uint64_t k_grace_ns = 3 * k_ns_per_s;

// Under the VM's lock, when it is in one of `allowed`: one operation of its supervisor, and the
// document afterwards with the keys of the reply.
Result<json> change(const Object& vm, const char* verb, const char* op,
                    const std::vector<std::string>& allowed, const Deadline& deadline) {
  TRY_ASSIGN(const LockFile lock, lock_vm(vm, deadline));
  TRY_ASSIGN(const json state, vm.load());
  TRY(require_state(vm, state, verb, allowed));
  TRY_ASSIGN(const json reply, call_supervisor(vm, {{"op", op}}, deadline, verb));
  TRY_ASSIGN(json document, vm_document(vm));
  document.update(reply);
  return document;
}

// The supervisor has answered and ends; it is gone when this returns.
Result<> reap(const json& state) {
  const json* process = find(state, "supervisor");
  if (!process || !process->is_object()) return {};
  const ProcessId supervisor = process_from_json(*process);
  if (is_alive(supervisor)) TRY(terminate(supervisor, k_grace_ns));
  return {};
}

Result<json> forced_off(const Object& vm, const json& state) {
  TRY(end_processes(vm, state, "its power button was pressed, and it did not react"));
  TRY_ASSIGN(json document, vm_document(vm));
  document["graceful"] = false;
  return document;
}

}  // namespace

Result<bool> end_processes(const Object& vm, const json& state, std::string_view why) {
  bool forced = false;
  const auto process = [&](const char* key) {
    const json* recorded = find(state, key);
    return recorded && recorded->is_object() ? process_from_json(*recorded) : ProcessId{};
  };
  const ProcessId supervisor = process("supervisor");
  const ProcessId qemu = process("qemu");
  if (supervisor.pid > 0 && is_alive(supervisor)) {
    auto reply =
        call_supervisor(vm, {{"op", "quit"}, {"why", why}}, Deadline::in_ns(k_quit_ns), "shutdown");
    if (reply) forced = get_bool(*reply, "forced");
    // It ends by itself after its answer; a stuck one is ended here.
    TRY_ASSIGN(const bool killed, terminate(supervisor, k_grace_ns));
    forced = forced || killed;
  }
  if (qemu.pid > 0 && is_alive(qemu)) {
    TRY_ASSIGN(const bool killed, terminate(qemu, k_grace_ns));
    forced = forced || killed;
  }
  return forced;
}

Result<json> pause_vm(const Object& vm, const Deadline& deadline) {
  return change(vm, "pause", "pause", {"booted"}, deadline);
}

Result<json> resume_vm(const Object& vm, const Deadline& deadline) {
  return change(vm, "resume", "resume", {"paused"}, deadline);
}

Result<json> reset_vm(const Object& vm, const Deadline& deadline) {
  return change(vm, "reset", "reset", {"booted"}, deadline);
}

Result<json> press_power_button(const Object& vm, bool force, const Deadline& deadline) {
  TRY_ASSIGN(const LockFile lock, lock_vm(vm, deadline));
  TRY_ASSIGN(const json state, vm.load());
  TRY(require_state(vm, state, "power-button", {"booted"}));
  auto reply = call_supervisor(vm, {{"op", "power_button"}}, deadline, "power-button");
  if (!reply && reply.error().code == Code::timeout && force) return forced_off(vm, state);
  if (!reply) return fail(reply.error());
  TRY(reap(state));
  TRY_ASSIGN(json document, vm_document(vm));
  document["graceful"] = true;
  return document;
}

Result<json> shutdown_vm(const Object& vm, const Deadline& deadline) {
  TRY_ASSIGN(const LockFile lock, lock_vm(vm, deadline));
  TRY_ASSIGN(json state, vm.load());
  TRY_ASSIGN(const bool forced, end_processes(vm, state, "it was shut down"));
  // One that was never booted, or that is dead, has no record of an end that says so.
  if (actual_state(vm, state) != "shutdown") {
    state["state"] = "shutdown";
    for (const char* key : {"qemu", "supervisor"}) state.erase(key);
    TRY(vm.save(state));
  }
  TRY_ASSIGN(json document, vm_document(vm));
  document["forced"] = forced;
  return document;
}

}  // namespace pv::vm
