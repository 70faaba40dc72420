// SPDX-License-Identifier: MIT
// The verbs that take a VM from one state to another, but for boot and close.
#include "vm/life.hpp"

#include "verbs.hpp"

namespace pv::vmcmd {
namespace {

constexpr uint64_t k_change_ns = 30 * k_ns_per_s;
constexpr uint64_t k_guest_ns = 60 * k_ns_per_s;  // what the guest does itself, under TCG

using Change = std::function<Result<json>(const Object& vm, const Deadline& deadline)>;

void build(cli::Verb& verb, uint64_t default_ns, Change change) {
  auto name = std::make_shared<std::string>();
  verb.positional("name", *name, "The VM (default: the one of the document on stdin)");
  verb.takes_many();
  verb.run([name, default_ns, change = std::move(change)](cli::Context& context) -> Result<int> {
    TRY_ASSIGN(const Deadline deadline, context.deadline(default_ns));
    TRY_ASSIGN(const target::VmTarget at, target::vm_target(context, *name));
    TRY_ASSIGN(context.document()["vm"], change(at.vm, deadline));
    TRY(context.emit());
    return 0;
  });
}

}  // namespace

void build_pause(cli::Verb& verb) {
  build(verb, k_change_ns, vm::pause_vm);
}

void build_resume(cli::Verb& verb) {
  build(verb, k_change_ns, vm::resume_vm);
}

void build_reset(cli::Verb& verb) {
  build(verb, k_guest_ns, vm::reset_vm);
}

void build_power_button(cli::Verb& verb) {
  auto force = std::make_shared<bool>(false);
  verb.flag("--force", *force, "End a guest that has not shut down in time");
  build(verb, k_guest_ns, [force](const Object& vm, const Deadline& deadline) {
    return vm::press_power_button(vm, *force, deadline);
  });
}

void build_shutdown(cli::Verb& verb) {
  build(verb, k_change_ns, vm::shutdown_vm);
}

}  // namespace pv::vmcmd
