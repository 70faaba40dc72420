// SPDX-License-Identifier: MIT
#include <fcntl.h>

#include <fmt/format.h>

#include "base/text.hpp"
#include "base/units.hpp"
#include "serve/disk_object.hpp"
#include "serve/server.hpp"
#include "target/vm_target.hpp"
#include "verbs.hpp"
#include "vm/hotplug.hpp"
#include "vm/vm_object.hpp"

namespace pv::diskcmd {
namespace {

struct AttachOptions {
  std::string vm;
  std::string id;
  SpecFlags spec;
  bool cdrom = false;
  std::string host_key;
};

// A new object for the disk; one that was detached makes room for its successor.
Result<Object> claim(const RunDir& run, const std::string& vm, const std::string& id) {
  if (auto old = run.find("disk", vm, id)) {
    auto state = old->load();
    if (state && get_string(*state, "state") == "detached") run.remove(*old);
  }
  return run.create("disk", vm, id);
}

// Its server, and where the VM runs (`hot`) its place in the guest.
Result<> begin(const Object& vm, const Object& disk, const serve::Spec& spec, bool hot,
               const Deadline& deadline) {
  TRY_ASSIGN(const json state, serve::start_server(disk, spec, deadline));
  if (!hot) return {};
  TRY_ASSIGN(const json plugged, vm::plug_disk(vm, state, disk.path("nbd.sock"), deadline));
  return serve::save_keys(disk, plugged);
}

Result<int> act(cli::Context& context, const AttachOptions& options) {
  TRY_ASSIGN(const target::VmTarget at, target::vm_target(context, options.vm));
  // The disk lives where its VM lives, which may be an outer scope.
  TRY_ASSIGN(const RunDir run, RunDir::open(at.vm.scope));
  const std::string id = options.id.empty() ? "attached-" + at.vm.name : options.id;
  TRY(check_name("disk", id));
  TRY_ASSIGN(serve::Spec spec, spec_from(context, options.spec));
  if (options.cdrom) {
    constexpr uint32_t k_disc_sector = 2048;  // MMC-6, "logical block"
    if (!options.spec.sector_size.empty() && spec.sector_size != k_disc_sector)
      return fail(Code::usage, fmt::format("the sectors of a CD have {} bytes", k_disc_sector));
    spec.sector_size = k_disc_sector;
    spec.read_only = spec.cdrom = true;
  }
  spec.host_key = options.host_key;
  TRY(serve::complete(spec, id));
  TRY_ASSIGN(const Deadline deadline, context.deadline(target::k_default_timeout_ns));
  TRY_ASSIGN(const LockFile lock, vm::lock_vm(at.vm, deadline));
  TRY_ASSIGN(json vm_state, at.vm.load());
  TRY(vm::require_state(at.vm, vm_state, "attach a disk to", {"created", "booted"}));
  if (options.spec.transport == k_auto_transport && !spec.cdrom) {
    TRY_ASSIGN(spec.vhost_user, vm::shares_memory(at.vm, vm_state, deadline));
  }
  const bool hot = vm::actual_state(at.vm, vm_state) == "booted";
  TRY_ASSIGN(const Object disk, claim(run, at.vm.name, id));
  if (auto begun = begin(at.vm, disk, spec, hot, deadline); !begun) {
    static_cast<void>(serve::close_disk(run, disk));
    return fail(begun.error());
  }
  vm_state["disks"].push_back(id);
  TRY(at.vm.save(vm_state));
  TRY_ASSIGN(context.document()["vm"], vm::vm_document(at.vm));
  TRY_ASSIGN(context.document()["disk"], target::live_disk_document(disk, deadline));
  TRY(context.emit());
  return 0;
}

}  // namespace

void build_attach(cli::Verb& verb) {
  auto options = std::make_shared<AttachOptions>();
  verb.positional("vm", options->vm, "The VM (default: the one of the document on stdin)");
  verb.option("--id", options->id, "NAME", "Name of the disk (default: attached-VM)");
  verb.flag("--cdrom", options->cdrom, "As a disc in a CD drive, read-only");
  verb.option("--host-key", options->host_key, "NAME", "Which host the VM is, for reservations");
  add_spec_flags(verb, options->spec);
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::diskcmd
