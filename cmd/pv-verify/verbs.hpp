// SPDX-License-Identifier: MIT
// The verbs of pv-verify, and what they share.
#pragma once

#include "cli/command.hpp"

namespace pv::verifycmd {

void build_compare(cli::Verb& verb);
void build_fill(cli::Verb& verb);
void build_check(cli::Verb& verb);

}  // namespace pv::verifycmd
