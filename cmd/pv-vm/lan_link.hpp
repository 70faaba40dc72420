// SPDX-License-Identifier: MIT
// The flags of `lan link`, and what they ask for.
#pragma once

#include <string>

#include "cli/command.hpp"
#include "vm/lan/lan.hpp"

namespace pv::vmcmd {

// As typed; empty means not given.
struct LinkFlags {
  std::string latency, jitter, loss, seed;
  bool given() const {
    return !latency.empty() || !jitter.empty() || !loss.empty() || !seed.empty();
  }
};
void add_link_flags(cli::Verb& verb, LinkFlags& flags);

// `state` is "up", "down" or empty. Code::usage names the flag, and when nothing is to change.
Result<lan::LinkChange> link_change(const LinkFlags& flags, const std::string& state);

}  // namespace pv::vmcmd
