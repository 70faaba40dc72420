// SPDX-License-Identifier: MIT
#include "vm/boot.hpp"

#include "target/accounting.hpp"
#include "verbs.hpp"

namespace pv::vmcmd {
namespace {

// A boot takes 2 to 4 s under TCG on an idle machine; 16 at once on two cores take a minute.
constexpr uint64_t k_boot_ns = 60 * k_ns_per_s;

}  // namespace

void build_boot(cli::Verb& verb) {
  struct Options {
    std::string name;
    VmFlags flags;
  };
  auto options = std::make_shared<Options>();
  verb.positional("name", options->name, "The VM (default: the one of the document on stdin)");
  add_vm_flags(verb, options->flags);
  add_accel_flag(verb, options->flags);
  verb.run([options](cli::Context& context) -> Result<int> {
    TRY_ASSIGN(const target::VmTarget at, target::vm_target(context, options->name));
    TRY_ASSIGN(const uint64_t timeout_ns, context.timeout_ns(k_boot_ns));
    TRY(vm::boot_vm(at.run, at.vm, options_of(options->flags), timeout_ns));
    TRY_ASSIGN(json document, target::live_document(at.run, at.vm));
    context.document()["vm"] = std::move(document);
    TRY(context.emit());
    return 0;
  });
}

}  // namespace pv::vmcmd
