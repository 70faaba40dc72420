// SPDX-License-Identifier: MIT
// The rule of a sweep: what the flags say, and what each run makes of it.
#pragma once

#include <string>
#include <vector>

#include "base/json.hpp"
#include "base/result.hpp"
#include "cli/command.hpp"
#include "rule_flags.hpp"

namespace pv::faultcmd {

void add_sweep_rule_flags(cli::Verb& verb, RuleFlags& flags);

// Code::bad_rule where the flags say themselves when the rule fires: that is the sweep's.
Result<json> sweep_rule(RuleFlags flags);

// The same rule, firing once: at the k-th request that matches.
json rule_for(json rule, uint64_t k);

}  // namespace pv::faultcmd
