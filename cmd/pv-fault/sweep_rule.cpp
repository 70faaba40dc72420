// SPDX-License-Identifier: MIT
#include "sweep_rule.hpp"

#include <fmt/format.h>

#include "base/text.hpp"

namespace pv::faultcmd {
namespace {

constexpr const char* k_default_mode = "error";

// A key that would make the k-th match something else than the k-th request.
Result<> check_when(const json& rule) {
  const json* when = find(rule, "when");
  if (!when || when->is_null()) return {};
  if (!when->is_object()) return fail(Code::bad_rule, "when is not an object");
  for (const char* key : {"after", "times", "every", "probability"}) {
    const json* value = find(*when, key);
    const bool always = strcmp(key, "every") == 0 || strcmp(key, "probability") == 0;
    if (!value || value->is_null() || (always && *value == 1)) continue;
    return fail(Code::bad_rule,
                fmt::format("the rule has when.{}, but a sweep says itself when it fires", key));
  }
  return {};
}

}  // namespace

void add_sweep_rule_flags(cli::Verb& verb, RuleFlags& flags) {
  verb.option("--mode", flags.mode, "MODE",
              "eio_read, eio_write, slow, or a kind (default: error; see pv-fault kinds)");
  add_rule_flag(verb, flags);
  add_match_flags(verb, flags);
  add_action_flags(verb, flags);
}

Result<json> sweep_rule(RuleFlags flags) {
  if (flags.mode.empty() && flags.rule.empty()) flags.mode = k_default_mode;
  // Sectors of the disk that --sector counts in: the runs' disks are not made yet.
  constexpr uint64_t k_sector = 512;
  TRY_ASSIGN(json rule, rule_from_flags(flags, k_sector));
  rule.erase("id");
  TRY(check_when(rule));
  return rule;
}

json rule_for(json rule, uint64_t k) {
  if (!rule.contains("when") || rule["when"].is_null()) rule["when"] = json::object();
  rule["when"]["after"] = k - 1;
  rule["when"]["times"] = 1;
  return rule;
}

}  // namespace pv::faultcmd
