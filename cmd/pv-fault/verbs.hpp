// SPDX-License-Identifier: MIT
// The verbs of pv-fault.
#pragma once

#include <nlohmann/json.hpp>

#include "cli/command.hpp"
#include "serve/client.hpp"
#include "target/disk_target.hpp"

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

// --disk, which every verb but `kinds` has.
void add_disk_flag(cli::Verb& verb, std::string& disk);

struct Session {
  target::DiskTarget at;
  serve::DiskClient client;
};
// --timeout, or `default_ns`, bounds each call.
Result<Session> open_session(cli::Context& context, const std::string& disk,
                             uint64_t default_ns = target::k_default_timeout_ns);

// {"id","scope","vm"}: what a later stage needs to find the disk again.
json disk_reference(const Object& disk);

// Adds one rule or several, all or none, and emits the document.
Result<> add_rules(cli::Context& context, Session& session, json rules);

}  // namespace pv::faultcmd
