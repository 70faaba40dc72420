// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include "base/text.hpp"
#include "serve/client.hpp"
#include "verbs.hpp"
#include "vm/hotplug.hpp"
#include "vm/vm_object.hpp"

namespace pv::diskcmd {
namespace {

struct EjectOptions {
  std::string disk;
  bool force = false;
};

// Where no guest runs the drive will be empty at the next boot.
Result<> eject_in(const Object& vm, const Object& disk, bool force, const Deadline& deadline) {
  TRY_ASSIGN(const json state, vm.load());
  const std::string now = vm::actual_state(vm, state);
  if (!vm::is_running(now)) return {};
  return vm::eject_disk(vm, disk.name, force, deadline);
}

Result<int> act(cli::Context& context, const EjectOptions& options) {
  TRY_ASSIGN(const target::DiskTarget at, target::disk_target(context, options.disk));
  TRY_ASSIGN(const Deadline deadline, context.deadline(target::k_default_timeout_ns));
  const auto vm = at.disk.owner.empty() ? std::nullopt : at.run.find("vm", "", at.disk.owner);
  std::optional<LockFile> lock;
  if (vm) {
    TRY_ASSIGN(lock, vm::lock_vm(*vm, deadline));
  }
  TRY_ASSIGN(serve::DiskClient client, serve::DiskClient::connect(at.disk, deadline));
  TRY_ASSIGN(const json state, at.disk.load());
  if (!get_bool(state, "cdrom"))
    return fail(
        Code::unsupported_eject,
        fmt::format("disk '{}' is no disc in a CD drive (attach --cdrom)", at.disk.display()));
  if (get_bool(state, "medium", true)) {
    if (vm) TRY(eject_in(*vm, at.disk, options.force, deadline));
    TRY(client.call({{"op", "eject"}}));
  }
  TRY_ASSIGN(context.document()["disk"], target::live_disk_document(at.disk, deadline));
  TRY(context.emit());
  return 0;
}

}  // namespace

void build_eject(cli::Verb& verb) {
  auto options = std::make_shared<EjectOptions>();
  verb.positional("disk", options->disk, "The disk (default: the one of the document on stdin)");
  verb.flag("--force", options->force, "Even if the guest has locked the tray");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::diskcmd
