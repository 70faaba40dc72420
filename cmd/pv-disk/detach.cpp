// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include "base/process.hpp"
#include "base/text.hpp"
#include "serve/disk_object.hpp"
#include "verbs.hpp"
#include "vm/hotplug.hpp"
#include "vm/vm_object.hpp"

namespace pv::diskcmd {
namespace {

struct DetachOptions {
  std::string disk;
  bool force = false;
};

// Takes the disk out of the guest: true, false with a reason, or null when no guest runs.
Result<json> release(const Object& vm, const std::string& id, const Deadline& deadline) {
  TRY_ASSIGN(const json state, vm.load());
  const std::string now = vm::actual_state(vm, state);
  if (now != "booted" && now != "paused") return json{{"guest_released", nullptr}};
  return vm::unplug_disk(vm, id, deadline);
}

Result<> forget_in_vm(const Object& vm, const std::string& id) {
  TRY_ASSIGN(json state, vm.load());
  json kept = json::array();
  for (const json& known : state["disks"])
    if (known != id) kept.push_back(known);
  state["disks"] = kept;
  return vm.save(state);
}

Result<int> act(cli::Context& context, const DetachOptions& options) {
  TRY_ASSIGN(const target::DiskTarget at, target::disk_target(context, options.disk));
  TRY_ASSIGN(const Deadline deadline, context.deadline(target::k_default_timeout_ns));
  TRY_ASSIGN(const json state, at.disk.load());
  if (get_string(state, "state") == "detached")
    return fail(Code::detached, fmt::format("disk '{}' is detached already", at.disk.display()));
  if (at.disk.owner.empty())
    return fail(Code::wrong_state,
                fmt::format("disk '{}' is in no VM; close it", at.disk.display()));
  json released = {{"guest_released", nullptr}};
  std::optional<LockFile> lock;
  auto vm = at.run.find("vm", "", at.disk.owner);
  if (vm) {
    TRY_ASSIGN(lock, vm::lock_vm(*vm, deadline));
    TRY_ASSIGN(released, release(*vm, at.disk.name, deadline));
  }
  const bool kept = released["guest_released"] == false && !options.force;
  if (!kept) {
    if (vm) TRY(forget_in_vm(*vm, at.disk.name));
    TRY_ASSIGN(const uint64_t grace_ns, context.timeout_ns(serve::k_end_grace_ns));
    TRY_ASSIGN(const serve::LastWords words, serve::end_server(at.disk, grace_ns));
    TRY(serve::save_keys(at.disk, {{"state", "detached"}}));
    TRY(words.told(at.disk, "detached"));
  }
  TRY_ASSIGN(json document, serve::disk_document(at.disk));
  document.update(released);
  context.document()["disk"] = document;
  if (vm) {
    TRY_ASSIGN(context.document()["vm"], vm::vm_document(*vm));
  }
  TRY(context.emit());
  return kept ? 1 : 0;
}

}  // namespace

void build_detach(cli::Verb& verb) {
  auto options = std::make_shared<DetachOptions>();
  verb.positional("disk", options->disk, "The disk (default: the one of the document on stdin)");
  verb.flag("--force", options->force, "End the disk even if the guest does not let go of it");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::diskcmd
