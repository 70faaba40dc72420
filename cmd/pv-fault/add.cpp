// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include "base/file.hpp"
#include "base/text.hpp"
#include "blk/fault/rule.hpp"
#include "rule_flags.hpp"
#include "verbs.hpp"

namespace pv::faultcmd {
namespace {

constexpr size_t k_add_max_file = 64 << 20;  // as a document on stdin
// A Linux guest reports a task that sleeps for longer (kernel.hung_task_timeout_secs).
constexpr double k_hung_task_ms = 120'000;

struct AddOptions {
  std::string disk, rules;
  RuleFlags rule;
};

// A list of rules, an object with `rules` or `rule`, or a rule.
Result<> append_rules(json document, json& rules) {
  if (document.is_object() && document.contains("rules")) document = document["rules"];
  if (document.is_object() && document.contains("rule")) document = document["rule"];
  if (document.is_object()) {
    rules.push_back(std::move(document));
    return {};
  }
  if (!document.is_array()) return fail(Code::bad_document, "neither a rule nor a list of rules");
  for (json& rule : document) rules.push_back(std::move(rule));
  return {};
}

// A guest's complaint about a request that takes so long is easily taken for what a test is after.
void note_long_delays(const Object& disk, const json& rules) {
  if (disk.owner.empty()) return;
  for (const json& rule : rules) {
    const json* action = find(rule, "do");
    for (const char* key : {"delay_ms", "max_ms"})
      if (const json* ms = action ? find(*action, key) : nullptr;
          ms && ms->is_number() && ms->get<double>() > k_hung_task_ms)
        fmt::print(stderr,
                   "pv-fault: rule '{}' can make a request wait for longer than 120 s, which a "
                   "Linux guest reports as a hung task\n",
                   get_string(rule, "id"));
  }
}

}  // namespace

Result<json> read_rules(const std::string& path) {
  auto text = path == "-" ? read_all(STDIN_FILENO, k_add_max_file, "stdin")
                          : read_file(path, k_add_max_file);
  if (!text) return fail(text.error());
  json rules = json::array();
  if (auto whole = parse_json(*text)) {
    TRY(append_rules(std::move(*whole), rules));
    if (rules.empty()) return fail(Code::bad_document, "no rule was given");
    return rules;
  }
  size_t number = 0;
  for (const std::string& line : split(*text, '\n')) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    auto one = parse_json(line);
    if (!one)
      return fail(Code::bad_document, fmt::format("{}, line {}: {}", path == "-" ? "stdin" : path,
                                                  number, one.error().message));
    TRY(append_rules(std::move(*one), rules));
  }
  if (rules.empty()) return fail(Code::bad_document, "no rule was given");
  return rules;
}

Result<> add_rules(cli::Context& context, Session& session, json rules) {
  const bool many = rules.size() != 1;
  for (json& rule : rules) pack_ranges(rule);
  json request = {{"op", "fault.add"}, {"with_disk", true}};
  if (many)
    request["rules"] = std::move(rules);
  else
    request["rule"] = std::move(rules[0]);
  TRY_ASSIGN(const json reply, session.client.call(request));
  TRY_ASSIGN(context.document()["disk"], target::disk_document_from(session.at.disk, reply));
  context.document().erase("rules");
  context.document().erase("rule");
  const char* key = many ? "rules" : "rule";
  context.document()[key] = reply[key];
  note_long_delays(session.at.disk, many ? reply[key] : json::array({reply[key]}));
  return context.emit();
}

namespace {

Result<int> act(cli::Context& context, const AddOptions& options) {
  const RuleFlags& flags = options.rule;
  if (!options.rules.empty() && (!flags.mode.empty() || !flags.rule.empty()))
    return fail(Code::usage, "--rules stands alone: the rules are in the file");
  if (options.rules == "-" && options.disk.empty())
    return fail(Code::usage, "with --rules - stdin holds the rules: name the disk with --disk");
  TRY_ASSIGN(Session session, open_session(context, options.disk));
  json rules = json::array();
  RuleFlags rule = flags;
  bool listed = !options.rules.empty();
  if (listed) {
    TRY_ASSIGN(rules, read_rules(options.rules));
  } else if (flags.mode.empty() && flags.rule.empty()) {
    const json* many = context.has_input() ? find(context.document(), "rules") : nullptr;
    const json* one = context.has_input() ? find(context.document(), "rule") : nullptr;
    if (many == nullptr && one == nullptr)
      return fail(Code::usage, fmt::format("say which fault: {}, --rule JSON or --rules FILE",
                                           join(blk::valid_modes(), ", ")));
    listed = many != nullptr;
    if (listed)
      TRY(append_rules(*many, rules));
    else
      rule.rule = to_line(*one);
  }
  if (!listed) {
    TRY_ASSIGN(const json state, session.at.disk.load());
    TRY_ASSIGN(json made, rule_from_flags(rule, get_u64(state, "sector_size", 512)));
    rules.push_back(std::move(made));
  }
  TRY(add_rules(context, session, std::move(rules)));
  return 0;
}

}  // namespace

void build_add(cli::Verb& verb) {
  auto options = std::make_shared<AddOptions>();
  verb.positional("mode", options->rule.mode,
                  "eio_read, eio_write, slow, or a kind (see pv-fault kinds)");
  add_disk_flag(verb, options->disk);
  add_rule_flag(verb, options->rule);
  verb.option("--rules", options->rules, "FILE",
              "Many rules at once: JSON objects, one a line, or a list ('-': stdin)");
  verb.option("--id", options->rule.id, "NAME",
              "Name of the rule (default: the mode, or r1, r2, ...)");
  add_match_flags(verb, options->rule);
  add_when_flags(verb, options->rule);
  add_action_flags(verb, options->rule);
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::faultcmd
