// SPDX-License-Identifier: MIT
#include <CLI/CLI.hpp>

#include "base/text.hpp"
#include "verbs.hpp"
#include "vm/vm_object.hpp"

namespace pv::vmcmd {

Result<TargetName> target_name(cli::Context& context, const std::string& name) {
  if (!name.empty()) {
    TRY_ASSIGN(RunDir run, context.run_dir());
    return TargetName{std::move(run), name};
  }
  TRY_ASSIGN(const json* document, context.input());
  const json* vm = find(*document, "vm");
  const std::string from_document = vm && vm->is_object() ? get_string(*vm, "name") : "";
  if (from_document.empty())
    return fail(Code::bad_document, "the input document names no VM (key \"vm\", \"name\")");
  TRY_ASSIGN(RunDir run, context.run_dir(get_string(*vm, "scope")));
  return TargetName{std::move(run), from_document};
}

Result<Target> target(cli::Context& context, const std::string& name) {
  TRY_ASSIGN(TargetName found, target_name(context, name));
  TRY_ASSIGN(Object vm, vm::find_vm(found.run, found.name));
  return Target{std::move(found.run), std::move(vm)};
}

void add_vm_flags(cli::Verb& verb, VmFlags& flags) {
  verb.option("--profile", flags.options.profile, "NAME", "What to boot (default: tiny)");
  verb.option("--memory", flags.options.memory, "SIZE", "RAM, e.g. 512M (default: the profile's)");
  verb.option("--cpus", flags.options.cpus, "N", "Virtual CPUs (default: the profile's)");
  verb.option("--cmdline", flags.cmdline, "TEXT", "Kernel command line instead of the profile's")
      ->each([&flags](const std::string&) { flags.has_cmdline = true; });
  verb.option("--cmdline-append", flags.options.cmdline_append, "TEXT",
              "Added to the kernel command line");
  verb.option("--qemu-arg", flags.options.qemu_args, "ARG",
              "One more argument for QEMU (can be repeated)");
}

void add_accel_flag(cli::Verb& verb, VmFlags& flags) {
  verb.option("--accel", flags.options.accel, "MODE",
              "auto, kvm or tcg (default: auto, which is KVM where it works)");
}

vm::VmOptions options_of(const VmFlags& flags) {
  vm::VmOptions options = flags.options;
  if (flags.has_cmdline) options.cmdline = flags.cmdline;
  return options;
}

}  // namespace pv::vmcmd
