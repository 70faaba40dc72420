// SPDX-License-Identifier: MIT
#include "target/power_cut.hpp"

#include <map>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "serve/disk_object.hpp"
#include "vm/power.hpp"
#include "vm/vm_object.hpp"

namespace pv::target {
namespace {

Result<std::vector<Object>> served_disks(const RunDir& run, const Object& vm) {
  std::vector<Object> disks;
  for (Object& disk : serve::disks_of_vm(run, vm)) {
    TRY_ASSIGN(const json state, disk.load());
    if (get_string(state, "state") != "detached") disks.push_back(std::move(disk));
  }
  return disks;
}

// Locks of all that a cut of single disks must not meet: their VMs, or the disks themselves.
Result<std::vector<LockFile>> lock_all(const RunDir& run, const std::vector<Object>& disks,
                                       const Deadline& deadline) {
  std::map<std::string, Object>
      objects;  // in one order, so that two cuts never wait for each other
  for (const Object& disk : disks) {
    const auto vm = disk.owner.empty() ? std::nullopt : run.find("vm", "", disk.owner);
    const Object& object = vm ? *vm : disk;
    objects.emplace(object.dir, object);
  }
  std::vector<LockFile> locks;
  for (const auto& [dir, object] : objects) {
    const bool is_vm = object.kind == "vm";
    TRY_ASSIGN(LockFile lock, is_vm ? vm::lock_vm(object, deadline) : object.lock(deadline));
    locks.push_back(std::move(lock));
    if (!is_vm) continue;
    TRY_ASSIGN(const json state, object.load());
    const std::string now = vm::actual_state(object, state);
    if (!vm::is_running(now)) continue;
    return fail(Error(Code::wrong_state,
                      fmt::format("VM '{}' is {} and uses the disk; cut the power of the VM",
                                  object.name, now))
                    .with("state", now)
                    .with("allowed", {"created", "shutdown", "dead"}));
  }
  return locks;
}

}  // namespace

Result<json> cut_power(const RunDir& run, const Object& vm, const serve::PowerCut& cut,
                       const Deadline& deadline) {
  TRY_ASSIGN(const LockFile lock, vm::lock_vm(vm, deadline));
  TRY_ASSIGN(const json state, vm.load());
  TRY(vm::require_state(vm, state, "power-cut", {"booted", "paused"}));
  TRY_ASSIGN(const std::vector<Object> disks, served_disks(run, vm));
  TRY_ASSIGN(serve::Blackout blackout, serve::Blackout::prepare(disks, cut, deadline));
  TRY(vm::check_drives(vm, deadline));
  // The disks first: a QEMU that is being killed may still send, and nobody listens any more.
  TRY(blackout.freeze());
  TRY(vm::kill_machine(vm, deadline));
  return blackout.finish(deadline);
}

Result<json> cut_power(const RunDir& run, const std::vector<Object>& disks,
                       const serve::PowerCut& cut, const Deadline& deadline) {
  for (size_t i = 0; i < disks.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      if (disks[i].dir == disks[j].dir)
        return fail(Code::usage, fmt::format("disk '{}' is named twice", disks[i].display()));
  TRY_ASSIGN(const std::vector<LockFile> locks, lock_all(run, disks, deadline));
  TRY_ASSIGN(serve::Blackout blackout, serve::Blackout::prepare(disks, cut, deadline));
  TRY(blackout.freeze());
  return blackout.finish(deadline);
}

}  // namespace pv::target
