// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include "base/text.hpp"
#include "serve/disk_object.hpp"
#include "verbs.hpp"
#include "vm/vm_object.hpp"

namespace pv::diskcmd {
namespace {

struct CloseOptions {
  std::vector<std::string> disks;
  bool all = false;
  bool force = false;
};

// A disk that a live guest uses is not pulled from under it by accident.
Result<> check_unused(const RunDir& run, const Object& disk) {
  if (disk.owner.empty()) return {};
  TRY_ASSIGN(const json state, disk.load());
  auto vm = run.find("vm", "", disk.owner);
  if (!vm || get_string(state, "state") == "detached") return {};
  TRY_ASSIGN(const json vm_state, vm->load());
  const std::string now = vm::actual_state(*vm, vm_state);
  if (now != "booted" && now != "paused") return {};
  return fail(Error(Code::wrong_state,
                    fmt::format("disk '{}' is plugged into a VM that is {}; detach it first",
                                disk.display(), now))
                  .with("state", now)
                  .with("allowed", {"created", "shutdown", "dead"}));
}

Result<> close_one(cli::Context& context, const RunDir& run, const Object& disk, bool force) {
  if (!force) TRY(check_unused(run, disk));
  TRY_ASSIGN(const Deadline deadline, context.deadline(target::k_default_timeout_ns));
  if (auto vm = run.find("vm", "", disk.owner); vm && !disk.owner.empty()) {
    TRY_ASSIGN(const LockFile lock, vm::lock_vm(*vm, deadline));
    TRY_ASSIGN(json state, vm->load());
    json kept = json::array();
    for (const json& id : state["disks"])
      if (id != disk.name) kept.push_back(id);
    state["disks"] = kept;
    TRY(vm->save(state));
  }
  auto document = serve::disk_document(disk);
  TRY_ASSIGN(const uint64_t grace_ns, context.timeout_ns(serve::k_end_grace_ns));
  TRY(serve::close_disk(run, disk, grace_ns));
  if (!document) document = json{{"id", disk.name}};
  (*document)["state"] = "closed";
  (*document)["closed"] = true;
  context.document()["disk"] = *document;
  return context.emit();
}

Result<int> act(cli::Context& context, const CloseOptions& options) {
  if (options.all) {
    TRY_ASSIGN(const RunDir run, context.run_dir());
    Result<> closed;  // the first that went wrong; the others are closed all the same
    for (const Object& disk : run.list("disk")) {
      if (!disk.owner.empty()) continue;
      if (auto one = close_one(context, run, disk, options.force); !one && closed) closed = one;
    }
    run.sweep();
    TRY(closed);
    return 0;
  }
  if (options.disks.empty()) {
    TRY_ASSIGN(const target::DiskTarget at, target::disk_target(context, ""));
    TRY(close_one(context, at.run, at.disk, options.force));
    return 0;
  }
  TRY_ASSIGN(const RunDir run, context.run_dir());
  for (const std::string& name : options.disks) {
    auto disk = serve::find_disk(run, name);
    if (disk) {
      TRY(close_one(context, run, *disk, options.force));
    } else if (disk.error().code == Code::no_such_disk) {
      context.document()["disk"] = {{"id", name}, {"state", "closed"}, {"closed", false}};
      TRY(context.emit());  // closing twice is not an error
    } else {
      return fail(disk.error());
    }
  }
  return 0;
}

}  // namespace

void build_close(cli::Verb& verb) {
  auto options = std::make_shared<CloseOptions>();
  verb.rest("disk", options->disks, "The disks (default: the one of the document on stdin)");
  verb.flag("--all", options->all, "Every disk of the scope that is in no VM");
  verb.flag("--force", options->force, "Even a disk that a running guest uses");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::diskcmd
