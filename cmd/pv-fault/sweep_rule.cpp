// SPDX-License-Identifier: MIT
#include "sweep_rule.hpp"

#include <CLI/CLI.hpp>

#include "base/text.hpp"
#include "blk/fault/rule.hpp"

namespace pv::faultcmd {
namespace {

constexpr const char* k_default_mode = "error";

Result<json> rule_of_mode(const SweepRuleFlags& flags) {
  const std::string mode = flags.mode.empty() ? k_default_mode : flags.mode;
  if (auto shorthand = blk::shorthand_rule(mode)) {
    shorthand->erase("id");
    return *shorthand;
  }
  const std::vector<std::string> valid = blk::valid_modes();
  if (std::find(valid.begin(), valid.end(), mode) == valid.end())
    return fail(
        Error(Code::bad_mode, fmt::format("unknown mode '{}' (valid: {})", mode, join(valid, ", ")))
            .with("valid", valid));
  return json{{"do", {{"kind", mode}}}};
}

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

void add_sweep_rule_flags(cli::Verb& verb, SweepRuleFlags& flags) {
  verb.option("--mode", flags.mode, "MODE",
              "eio_read, eio_write, slow, or a kind (default: error; see pv-fault kinds)");
  verb.option("--rule", flags.rule, "JSON", "The whole rule as an object, see pv-faults(7)");
  verb.option("--op", flags.ops, "OP,OP",
              "Only these operations: read write flush discard zero map cache");
  verb.option("--errno", flags.error, "NAME", "The error to give, e.g. ENOSPC (default: EIO)");
}

Result<json> sweep_rule(const SweepRuleFlags& flags) {
  json rule;
  if (flags.rule.empty()) {
    TRY_ASSIGN(rule, rule_of_mode(flags));
  } else {
    if (!flags.mode.empty()) return fail(Code::usage, "--mode and --rule exclude each other");
    auto parsed = parse_json(flags.rule);
    if (!parsed) return fail(Code::bad_rule, "--rule: " + parsed.error().message);
    rule = *parsed;
  }
  if (!rule.is_object()) return fail(Code::bad_rule, "the rule is not an object");
  TRY(check_when(rule));
  // A key of another type is left as it is: whoever reads the rule says what is wrong with it.
  const auto part = [&](const char* key) { return !rule.contains(key) || rule[key].is_object(); };
  if (!flags.ops.empty() && part("match")) {
    json ops = json::array();
    for (const std::string& list : flags.ops)
      for (const std::string& op : split(list, ',')) ops.push_back(op);
    rule["match"]["op"] = ops;
  }
  if (!flags.error.empty() && part("do")) rule["do"]["errno"] = flags.error;
  return rule;
}

json rule_for(json rule, uint64_t k) {
  if (!rule.contains("when") || rule["when"].is_null()) rule["when"] = json::object();
  rule["when"]["after"] = k - 1;
  rule["when"]["times"] = 1;
  return rule;
}

}  // namespace pv::faultcmd
