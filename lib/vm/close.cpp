// SPDX-License-Identifier: MIT
#include <nlohmann/json.hpp>

#include "base/process.hpp"
#include "base/text.hpp"
#include "serve/disk_object.hpp"
#include "vm/boot.hpp"
#include "vm/client.hpp"
#include "vm/lan.hpp"
#include "vm/vm_object.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_quit_ns = 3 * k_ns_per_s;  // the supervisor gives QEMU 2 s
constexpr uint64_t k_grace_ns = k_ns_per_s;

// Ends the supervisor and QEMU, in whatever state they are. True when force was needed.
Result<bool> end_processes(const Object& vm, const json& state) {
  bool forced = false;
  const auto process = [&](const char* key) {
    const json* recorded = find(state, key);
    return recorded && recorded->is_object() ? process_from_json(*recorded) : ProcessId{};
  };
  const ProcessId supervisor = process("supervisor");
  const ProcessId qemu = process("qemu");
  if (supervisor.pid > 0 && is_alive(supervisor)) {
    auto reply = call_supervisor(vm, {{"op", "quit"}}, Deadline::in_ns(k_quit_ns), "close");
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

// Under the VM's lock. `state` is what its state.json was.
Result<json> close_locked(const RunDir& run, const Object& vm, const Deadline& deadline,
                          json& state) {
  json document = {{"name", vm.name},
                   {"scope", vm.scope},
                   {"state", "shutdown"},
                   {"closed", false},
                   {"forced", false}};
  auto lock = lock_vm(vm, deadline);
  // Somebody else closed it first, or was killed half way through: what is left is removed.
  const bool half_gone = !lock && lock.error().code == Code::no_such_vm;
  if (!lock && !half_gone) return fail(lock.error());
  state = vm.load().value_or(json::object());
  TRY_ASSIGN(document["forced"], end_processes(vm, state));
  Result<> closed;  // the first that went wrong; the others are closed all the same
  for (const Object& disk : serve::disks_of_vm(run, vm))
    if (auto one = serve::close_disk(run, disk); !one && closed) closed = one;
  run.remove(vm);
  TRY(closed);
  document["closed"] = true;
  return document;
}

}  // namespace

Result<json> close_vm(const RunDir& run, const Object& vm, const Deadline& deadline) {
  json state;
  auto closed = close_locked(run, vm, deadline, state);
  if (closed) lan::leave_lans(state, deadline);
  return closed;
}

}  // namespace pv::vm
