// SPDX-License-Identifier: MIT
#include <CLI/CLI.hpp>

#include "verbs.hpp"

namespace pv::vmcmd {

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
