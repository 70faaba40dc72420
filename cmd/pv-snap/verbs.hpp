// SPDX-License-Identifier: MIT
// The verbs of pv-snap, and what they share.
#pragma once

#include "base/json.hpp"
#include "base/units.hpp"
#include "cli/command.hpp"
#include "snap/bundle.hpp"
#include "snap/restore.hpp"
#include "snap/store.hpp"

namespace pv::snapcmd {

void build_take(cli::Verb& verb);
void build_restore(cli::Verb& verb);
void build_clone(cli::Verb& verb);
void build_info(cli::Verb& verb);
void build_list(cli::Verb& verb);
void build_delete(cli::Verb& verb);
void build_check(cli::Verb& verb);
void build_fixture(cli::Verb& verb);

// What a snapshot, and a VM that is to go on from one, are named by.
struct SnapTarget {
  RunDir run;
  std::string dir;
};
// By name or path; without one, or with "-", the `snap` of the input document.
Result<SnapTarget> snap_target(cli::Context& context, const std::string& word);

// --clock, --reseed, --paused, --in-place.
struct RestoreOptions {
  std::string clock = "keep";
  bool reseed = false;
  bool paused = false;
  bool in_place = false;
};
void add_restore_flags(cli::Verb& verb, RestoreOptions& options);
Result<snap::RestoreFlags> restore_flags(const cli::Context& context, const RunDir& run,
                                         const RestoreOptions& options, size_t parallel);

}  // namespace pv::snapcmd
