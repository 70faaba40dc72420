// SPDX-License-Identifier: MIT
// wait and assert: what a test asks of its faults.
#include <algorithm>

#include <fmt/format.h>

#include "base/text.hpp"
#include "base/units.hpp"
#include "verbs.hpp"

namespace pv::faultcmd {
namespace {

struct WaitOptions {
  std::string rule, disk, hits = "1";
};

// Answered by the disk when the rule has fired so often.
Result<int> wait(cli::Context& context, const WaitOptions& options) {
  TRY_ASSIGN(const uint64_t hits, parse_count("--hits", options.hits));
  if (hits == 0) return fail(Code::usage, "--hits 0 has nothing to wait for");
  TRY_ASSIGN(Session session, open_session(context, options.disk));
  std::string id = options.rule;
  if (id.empty() && context.has_input()) {
    const json* rule = find(context.document(), "rule");
    if (rule != nullptr && rule->is_object()) id = get_string(*rule, "id");
  }
  if (id.empty()) return fail(Code::usage, "say which rule, or give its document on stdin");
  auto reply = session.client.call({{"op", "fault.wait"}, {"id", id}, {"hits", hits}});
  if (!reply && reply.error().code == Code::timeout)
    return fail(Code::timeout, fmt::format("rule '{}' has not fired {} {} in time", id, hits,
                                           hits == 1 ? "time" : "times"));
  if (!reply) return fail(reply.error());
  context.document()["rule"] = (*reply)["rule"];
  if (!context.has_input()) context.document()["disk"] = disk_reference(session.at.disk);
  TRY(context.emit());
  return 0;
}

struct AssertOptions {
  std::vector<std::string> ids;
  std::string disk;
};

Result<int> assert_fired(cli::Context& context, const AssertOptions& options) {
  TRY_ASSIGN(Session session, open_session(context, options.disk));
  TRY_ASSIGN(const json reply, session.client.call({{"op", "fault.list"}}));
  json idle = json::array(), fired = json::array();
  const auto wanted = [&](const std::string& id) {
    return options.ids.empty() ||
           std::find(options.ids.begin(), options.ids.end(), id) != options.ids.end();
  };
  std::vector<std::string> known;
  for (const json& rule : reply["rules"]) {
    const std::string id = get_string(rule, "id");
    known.push_back(id);
    if (wanted(id)) (get_u64(rule, "fired") != 0 ? fired : idle).push_back(id);
  }
  for (const std::string& id : options.ids)
    if (std::find(known.begin(), known.end(), id) == known.end())
      return fail(Error(Code::no_such_rule, fmt::format("no rule '{}' on this disk (rules: {})", id,
                                                        known.empty() ? "none" : join(known, " ")))
                      .with("valid", known));
  if (known.empty()) return fail(Code::no_such_rule, "the disk has no rule that could have fired");
  context.document()["verdict"] = {
      {"holds", idle.empty()}, {"fired", fired}, {"never_fired", idle}};
  context.document()["disk"] = disk_reference(session.at.disk);
  TRY(context.emit());
  return idle.empty() ? 0 : 1;
}

}  // namespace

void build_wait(cli::Verb& verb) {
  auto options = std::make_shared<WaitOptions>();
  verb.positional("rule", options->rule, "The rule (default: the one of the document on stdin)");
  add_disk_flag(verb, options->disk);
  verb.option("--hits", options->hits, "N", "Until it has fired N times (default: 1)");
  verb.run([options](cli::Context& context) { return wait(context, *options); });
}

void build_assert(cli::Verb& verb) {
  auto options = std::make_shared<AssertOptions>();
  verb.rest("rule", options->ids, "The rules (default: all)");
  add_disk_flag(verb, options->disk);
  verb.run([options](cli::Context& context) { return assert_fired(context, *options); });
}

}  // namespace pv::faultcmd
