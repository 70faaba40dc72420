// SPDX-License-Identifier: MIT
// The verbs of pv-fault.
#pragma once

#include "base/json.hpp"
#include "cli/command.hpp"
#include "target/disk_session.hpp"

namespace pv::faultcmd {

void build_add(cli::Verb& verb);
void build_list(cli::Verb& verb);
void build_clear(cli::Verb& verb);
void build_active(cli::Verb& verb);
void build_journal(cli::Verb& verb);
void build_power_cut(cli::Verb& verb);
void build_kinds(cli::Verb& verb);
void build_held(cli::Verb& verb);
void build_release(cli::Verb& verb);
void build_mark(cli::Verb& verb);
void build_state(cli::Verb& verb);
void build_wait(cli::Verb& verb);
void build_assert(cli::Verb& verb);
void build_preset(cli::Verb& verb);
void build_sweep(cli::Verb& verb);

using target::add_disk_flag;  // which every verb but `kinds` has
using target::disk_reference;
using target::open_session;
using Session = target::DiskSession;

// Adds one rule or several, all or none, and emits the document.
Result<> add_rules(cli::Context& context, Session& session, json rules);

}  // namespace pv::faultcmd
