// SPDX-License-Identifier: MIT
// The verbs of pv-verify, and what they share.
#pragma once

#include <nlohmann/json.hpp>

#include "cli/command.hpp"

namespace pv::verifycmd {

void build_mirror(cli::Verb& verb);
void build_findings(cli::Verb& verb);
void build_held(cli::Verb& verb);
void build_release(cli::Verb& verb);
void build_compare(cli::Verb& verb);
void build_fill(cli::Verb& verb);
void build_check(cli::Verb& verb);

}  // namespace pv::verifycmd
