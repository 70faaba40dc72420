// SPDX-License-Identifier: MIT
// The verbs of pv-vm, one file each, and what they share.
#pragma once

#include "base/json.hpp"
#include "cli/command.hpp"
#include "target/vm_target.hpp"
#include "vm/profile/config.hpp"

namespace pv::vmcmd {

void build_create(cli::Verb& verb);
void build_boot(cli::Verb& verb);
void build_pause(cli::Verb& verb);
void build_resume(cli::Verb& verb);
void build_reset(cli::Verb& verb);
void build_power_button(cli::Verb& verb);
void build_shutdown(cli::Verb& verb);
void build_wait(cli::Verb& verb);
void build_events(cli::Verb& verb);
void build_run(cli::Verb& verb);
void build_put(cli::Verb& verb);
void build_get(cli::Verb& verb);
void build_info(cli::Verb& verb);
void build_list(cli::Verb& verb);
void build_close(cli::Verb& verb);
void build_tail(cli::Verb& verb);
void build_clock(cli::Verb& verb);
void build_console(cli::Verb& verb);
void build_argv(cli::Verb& verb);
void build_doctor(cli::Verb& verb);
void build_profiles(cli::Verb& verb);
void build_lan(cli::Verb& verb);
void build_guest(cli::Verb& verb);
void build_scope(cli::Verb& verb);

// The flags that `create` and `boot` share.
struct VmFlags {
  vm::VmOptions options;
  std::string cmdline;
  bool has_cmdline = false;
};
void add_vm_flags(cli::Verb& verb, VmFlags& flags);
// Adds --config.
void add_config_flag(cli::Verb& verb, std::string& file);
// Adds --accel.
void add_accel_flag(cli::Verb& verb, VmFlags& flags);
vm::VmOptions options_of(const VmFlags& flags);

}  // namespace pv::vmcmd
