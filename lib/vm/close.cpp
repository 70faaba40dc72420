// SPDX-License-Identifier: MIT

#include "base/json.hpp"
#include "base/text.hpp"
#include "serve/disk_object.hpp"
#include "vm/boot.hpp"
#include "vm/lan/lan.hpp"
#include "vm/life.hpp"
#include "vm/vm_object.hpp"

namespace pv::vm {
namespace {

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
  TRY_ASSIGN(document["forced"], end_processes(vm, state, "it was closed"));
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
