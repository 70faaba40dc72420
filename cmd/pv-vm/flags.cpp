// SPDX-License-Identifier: MIT
#include <CLI/CLI.hpp>

#include "verbs.hpp"

namespace pv::vmcmd {

void add_vm_flags(cli::Verb& verb, VmFlags& flags) {
  verb.option("--profile", flags.options.profile, "NAME", "What to boot (default: tiny)");
  add_config_flag(verb, flags.options.config_file);
  verb.option("--memory", flags.options.memory, "SIZE", "RAM, e.g. 512M (default: the profile's)");
  verb.option("--cpus", flags.options.cpus, "N", "Virtual CPUs (default: the profile's)");
  verb.option("--cmdline", flags.cmdline, "TEXT", "Kernel command line instead of the profile's")
      ->each([&flags](const std::string&) { flags.has_cmdline = true; });
  verb.option("--cmdline-append", flags.options.cmdline_append, "TEXT",
              "Added to the kernel command line");
  verb.option("--qemu-arg", flags.options.qemu_args, "ARG",
              "One more argument for QEMU (can be repeated)");
  verb.option("--rng-seed", flags.options.rng_seed, "N",
              "The guest's virtio-rng has the same bytes at every boot with this seed");
  verb.option("--initial-time", flags.options.initial_time, "TIME",
              "What its clock shows when switched on: seconds since 1970, or 2023-11-14T22:13:20Z");
  verb.option("--file", flags.options.files, "DEST=SRC",
              "Put file SRC, or with DEST:=TEXT a text, at DEST in the guest (can be repeated)");
  verb.flag("--no-agent", flags.options.no_agent, "Do not wait for a guest agent");
}

void add_config_flag(cli::Verb& verb, std::string& file) {
  verb.option("--config", file, "FILE",
              "Where profiles are (default: $PROVIUM_CONFIG, else provium.toml here or above)");
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
