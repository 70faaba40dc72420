// SPDX-License-Identifier: MIT
#include "blk/fault/rule.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/fault/keys.hpp"
#include "blk/fault/kinds.hpp"
#include "blk/state.hpp"

namespace pv::blk {
namespace {

Result<const KindRow*> find_kind(const json* object) {
  if (object == nullptr || !object->is_object())
    return fail(Code::bad_rule, "the rule has no 'do' object");
  const std::string kind = get_string(*object, "kind");
  std::vector<std::string> known;
  for (const KindRow& row : fault_kinds()) {
    if (kind == row.name) return &row;
    known.emplace_back(row.name);
  }
  return fail(Error(Code::bad_mode,
                    fmt::format("unknown fault kind '{}' (valid: {})", kind, join(known, ", ")))
                  .with("valid", known));
}

// At a point where there is no request yet, nothing of one can be matched.
Result<> check_greeting(const json& match) {
  if (!match.is_object()) return {};  // refused where it is parsed
  for (const auto& [key, value] : match.items())
    if (key != "connection" && key != "front" && !value.empty())
      return fail(Code::bad_rule,
                  fmt::format("match.{} is about requests, and do.at about connections: the rule "
                              "could never fire",
                              key));
  return {};
}

Result<std::string> parse_then(const json& object) {
  Keys keys(object, "then");
  std::string state = keys.name("state");
  if (keys.good() && state.empty()) keys.refuse("then has no state to go to");
  TRY(keys.end());
  return state;
}

}  // namespace

Result<Rule> Rule::parse(const json& object, const RuleGround& ground) {
  Rule rule;
  Keys keys(object, "rule");
  const std::string id = keys.name("id");
  if (keys.good() && keys.has("id") && id.empty()) keys.refuse("rule.id is empty");
  // What `pv-fault list` shows may be fed back: the counters are accepted and start anew.
  for (const char* counter : {"matched", "fired", "left", "latched"})
    static_cast<void>(keys.raw(counter));
  const json none = json::object();
  const json* match = keys.raw("match");
  const json* when = keys.raw("when");
  const json* action = keys.raw("do");
  const json* then = keys.raw("then");
  const bool clip = keys.flag("clip", false);
  rule.heals_ = keys.choice("heal", {"never", "rewrite"}, 0) == 1;
  TRY(keys.end());
  TRY_ASSIGN(const KindRow* kind, find_kind(action));
  rule.kind_ = kind->name;
  TRY_ASSIGN(rule.action_, kind->make(*action, ground));
  if (rule.action_->greets()) TRY(check_greeting(match ? *match : none));
  TRY_ASSIGN(rule.match_, parse_match(match ? *match : none, ground.geometry, *rule.action_, clip));
  TRY_ASSIGN(rule.when_, parse_when(when ? *when : none));
  if (then) {
    TRY_ASSIGN(rule.next_state_, parse_then(*then));
  }
  if (!id.empty() && (id == rule.when_.since || id == rule.when_.on))
    return fail(Code::bad_rule, "the rule waits for its own firing: it could never fire");
  if (rule.heals_ && !rule.match_.ranged)
    return fail(Code::bad_rule, "heal needs match.ranges: a rewrite heals what it covers of them");
  if (rule.match_.front)
    if (const char* why = rule.action_->unsupported_on(*rule.match_.front))
      return fail(Code::unsupported, fmt::format("{} on front end '{}': {}", kind->name,
                                                 front_name(*rule.match_.front), why));
  rule.set_id(id);
  return rule;
}

void Rule::set_id(std::string id) {
  id_ = std::move(id);
  key_ = Chance::of_rule(when_.seed, id_);
}

bool Rule::count() {
  const bool fires = decide();
  if (tally_ != nullptr) count_in(tally_);
  return fires;
}

void Rule::count_in(Tally* tally) {
  tally_ = tally;
  *tally = {serial, matched_, fired_, latched_ ? 1U : 0U};
}

bool Rule::decide() {
  const uint64_t number = matched_++;
  if (!latched_) {
    if (number < when_.after || (number - when_.after + 1) % when_.every != 0) return false;
    if (when_.times && fired_ >= *when_.times) return false;
    if (when_.probability < 1 && key_.of(number).unit() >= when_.probability) return false;
  }
  ++fired_;
  if (mark != nullptr) ++*mark;
  latched_ = action_->latches();
  return true;
}

json Rule::definition() const {
  json object = {
      {"match", match_.to_json()}, {"when", when_.to_json()}, {"do", action_->describe()}};
  if (!next_state_.empty()) object["then"] = {{"state", next_state_}};
  if (heals_) object["heal"] = "rewrite";
  return object;
}

json Rule::saved() const {
  json object = {{"id", id_},
                 {"serial", serial},
                 {"added_ns", added_ns},
                 {"matched", matched_},
                 {"fired", fired_},
                 {"latched", latched_},
                 {"rule", definition()},
                 {"remembered", action_->remembered()}};
  if (!match_.ranged) return object;
  // All of them, also where a list for people would be cut, and none where all have been healed.
  object["rule"]["match"].erase("ranges");
  object["rule"]["match"].erase("ranges_count");
  json& ranges = object["ranges"] = json::array();
  for (const Range& range : match_.ranges.list()) {
    ranges.push_back(range.offset);
    ranges.push_back(range.length);
  }
  return object;
}

Result<Rule> Rule::from_saved(const json& saved, const RuleGround& ground) {
  const json* given = find(saved, "rule");
  const json* match = given ? find(*given, "match") : nullptr;
  if (match == nullptr || !match->is_object()) return bad_state("fault", "a rule");
  json object = *given;
  object["id"] = get_string(saved, "id");
  const json* ranges = find(saved, "ranges");
  if (ranges) object["match"]["ranges"] = {{0U, ground.geometry.sector_size}};
  auto rule = parse(object, ground);
  if (!rule || rule->id_.empty())
    return bad_state("fault", rule ? "a rule without an id" : rule.error().message);
  if (ranges) {
    std::vector<Range> all;
    if (!ranges->is_array() || ranges->size() % 2 != 0) return bad_state("fault", "ranges");
    for (size_t i = 0; i < ranges->size(); i += 2) {
      const json &offset = (*ranges)[i], &length = (*ranges)[i + 1];
      if (!offset.is_number_unsigned() || !length.is_number_unsigned() || length == 0 ||
          offset.get<uint64_t>() > UINT64_MAX - length.get<uint64_t>())
        return bad_state("fault", "ranges");
      all.push_back({offset.get<uint64_t>(), length.get<uint64_t>()});
    }
    rule->match_.ranges = RangeSet(std::move(all));
  }
  rule->serial = get_u64(saved, "serial");
  rule->added_ns = get_u64(saved, "added_ns");
  rule->matched_ = get_u64(saved, "matched");
  rule->fired_ = get_u64(saved, "fired");
  rule->latched_ = get_bool(saved, "latched");
  const json* remembered = find(saved, "remembered");
  if (rule->fired_ > rule->matched_ || remembered == nullptr || !rule->action_->recall(*remembered))
    return bad_state("fault", "how far a rule has come");
  return rule;
}

json Rule::to_json() const {
  json object = {{"id", id_}, {"matched", matched_}, {"fired", fired_}, {"left", nullptr}};
  if (when_.times) object["left"] = *when_.times - std::min(fired_, *when_.times);
  if (latched_) object["latched"] = true;
  object.update(definition());
  return object;
}

}  // namespace pv::blk
