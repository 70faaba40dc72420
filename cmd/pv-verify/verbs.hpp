// SPDX-License-Identifier: MIT
// The verbs of pv-verify, and what they share.
#pragma once

#include "base/json.hpp"
#include "cli/command.hpp"
#include "target/disk_session.hpp"

namespace pv::blk {
struct LogEnd;
}

namespace pv::verifycmd {

void build_mirror(cli::Verb& verb);
void build_findings(cli::Verb& verb);
void build_held(cli::Verb& verb);
void build_release(cli::Verb& verb);
void build_compare(cli::Verb& verb);
void build_fill(cli::Verb& verb);
void build_check(cli::Verb& verb);
void build_record(cli::Verb& verb);
void build_mark(cli::Verb& verb);
void build_log(cli::Verb& verb);
void build_replay(cli::Verb& verb);
void build_export(cli::Verb& verb);
void build_import(cli::Verb& verb);
void build_report(cli::Verb& verb);

// One that compares nothing says so in a way that helps.
Result<json> call_compared(const Object& disk, serve::DiskClient& client, const json& request);

// What every document says of a log: `state`, `whole`, `unused_bytes`, and `error` of a broken one.
void add_log_end(json& shown, const blk::LogEnd& end);

}  // namespace pv::verifycmd
