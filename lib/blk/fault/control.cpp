// SPDX-License-Identifier: MIT
// The fault layer's conversation with pv-fault:
//   fault.add rule | rules     {"rule"} | {"rules"}   all of them or none
//   fault.clear id repair      {"cleared","repaired_bytes"}
//   fault.list                 {"rules","state","marks"}
//   fault.journal              where the files are, see journal.hpp
//   fault.held                 {"held"}
//   fault.release tickets error drop   {"released"}   no tickets: every one
//   fault.mark name            {"mark","count"}
//   fault.state name           {"state"}              without a name it is only told
//   fault.truth                {"damaged_bytes","not_kept_bytes"}
//   fault.stop within_ms       {}                     what waits longer than that fails
//   fault.greet connection     see greet.cpp
#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/fault/keys.hpp"
#include "blk/fault/layer.hpp"
#include "blk/wire.hpp"

namespace pv::blk {
Result<json> FaultLayer::control(const json& request) {
  const std::string op = get_string(request, "op");
  if (op == "cache.held" && !late_.empty()) return json{{"late", late_.size()}};
  if (op == "power.off") power_off();
  if (op.rfind("state.", 0) == 0) return state_op(op, request);
  if (op.rfind("fault.", 0) != 0) return lower().control(request);
  if (op == "fault.add") return add(request);
  if (op == "fault.clear") return clear(request);
  if (op == "fault.list") return list();
  if (op == "fault.journal") {
    json where = journal_.where();
    where["began_ns"] = std::to_string(began_wall_ns_);
    return where;
  }
  if (op == "fault.held") return held();
  if (op == "fault.release") return release(request);
  if (op == "fault.mark") return set_mark(request);
  if (op == "fault.state") return set_state(request);
  if (op == "fault.truth")
    return json{{"damaged_bytes", truth_.bytes()}, {"not_kept_bytes", truth_.not_kept_bytes()}};
  if (op == "fault.greet") return greet(request);
  if (op == "fault.stop") return stop(ESHUTDOWN, get_u64(request, "within_ms") * k_ns_per_ms);
  return fail(Code::unsupported, fmt::format("the fault layer does not know '{}'", op));
}

void FaultLayer::inspect(json& out) const {
  json ids = json::array();
  for (const Rule* rule : rules_.all()) ids.push_back(rule->id());
  out["faults"] = ids;
  if (lateness_.count() != 0)
    out["fault_delays"] = {{"count", lateness_.count()},
                           {"late_us_p50", static_cast<double>(lateness_.quantile_ns(0.5)) / 1e3},
                           {"late_us_p99", static_cast<double>(lateness_.quantile_ns(0.99)) / 1e3},
                           {"late_us_max", static_cast<double>(lateness_.max_ns()) / 1e3}};
  lower().inspect(out);
}

RuleGround FaultLayer::ground() const {
  json layers;
  lower().inspect(layers);
  return {geometry(), find(layers, "cache") != nullptr};
}

// All rules are checked before the first is added. The same rule twice is the same rule: faults are
// a set.
Result<json> FaultLayer::add(const json& request) {
  const json* many = pv::find(request, "rules");
  const json* one = pv::find(request, "rule");
  if ((many == nullptr || !many->is_array()) && one == nullptr)
    return fail(Code::bad_rule, "no rule given");
  const json single = many ? json() : json::array({*one});
  const json& wanted = many ? *many : single;
  if (wanted.empty()) return fail(Code::bad_rule, "no rule given");
  const auto too_many = [&](size_t count) { return rules_.size() + count > RuleSet::k_max_rules; };
  const auto refusal =
      fail(Code::invalid, fmt::format("more than {} rules on one disk", RuleSet::k_max_rules));
  // A disk that is in use does not stop for what it will refuse.
  if (wanted.size() > RuleSet::k_max_rules) return refusal;
  std::vector<Rule> fresh;
  std::map<std::string, size_t> taken;  // id -> which of the fresh
  std::vector<std::string> ids;
  const RuleGround here = ground();
  for (const json& object : wanted) {
    TRY_ASSIGN(Rule rule, Rule::parse(object, here));
    if (rule.id().empty()) rule.set_id(fresh_id(taken));
    ids.push_back(rule.id());
    const auto twin = taken.find(rule.id());
    const Rule* known = twin != taken.end() ? &fresh[twin->second] : rules_.find(rule.id());
    if (known == nullptr) {
      taken[rule.id()] = fresh.size();
      fresh.push_back(std::move(rule));
    } else if (known->definition() != rule.definition()) {
      return fail(Code::duplicate_name,
                  fmt::format("rule '{}' exists and is different", rule.id()));
    }
  }
  if (too_many(fresh.size())) return refusal;
  for (Rule& rule : fresh) admit(std::move(rule));
  rules_.index();
  keep_rules();
  json shown = json::array();
  for (const std::string& id : ids) shown.push_back(rules_.find(id)->to_json());
  return many ? json{{"rules", shown}} : json{{"rule", shown[0]}};
}

void FaultLayer::admit(Rule rule) {
  rule.serial = ++last_serial_;
  rule.added_ns = now_ns();
  rule.mark = &scene_.marks[rule.id()];
  rules_.add(std::move(rule));
}

Result<json> FaultLayer::clear(const json& request) {
  const std::string id = get_string(request, "id");
  if (!id.empty() && rules_.find(id) == nullptr) {
    std::vector<std::string> known;
    for (const Rule* rule : rules_.all()) known.push_back(rule->id());
    return fail(Error(Code::no_such_rule, fmt::format("no rule '{}' on this disk (rules: {})", id,
                                                      known.empty() ? "none" : join(known, " ")))
                    .with("valid", known));
  }
  json reply = {{"cleared", json::array()}};
  std::set<uint64_t> gone;
  for (const auto& rule : rules_.remove(id)) {
    reply["cleared"].push_back(rule->to_json());
    gone.insert(rule->serial);
  }
  // Without an id also what rules have left that were cleared before.
  if (get_bool(request, "repair")) reply["repaired_bytes"] = repair(id.empty() ? 0 : *gone.begin());
  for (const auto& [ticket, flight] : waiting_)
    for (const Reason& reason : flight->reasons)
      if (gone.count(reason.rule) != 0) to_wake_.push_back({ticket, reason.rule});
  wake_waiting();
  keep_rules();
  if (env_.on_fault) env_.on_fault();  // who waits for a rule that is gone waits for nothing
  return reply;
}

Result<json> FaultLayer::list() const {
  json rows = json::array();
  for (const Rule* rule : rules_.all()) rows.push_back(rule->to_json());
  json marks = json::object();
  for (const auto& [name, count] : scene_.marks)
    if (count != 0) marks[name] = count;
  return json{{"rules", rows}, {"state", scene_.state}, {"marks", marks}};
}

Result<json> FaultLayer::held() const {
  json rows = json::array();
  for (const auto& [ticket, flight] : waiting_) {
    json holders = json::array();
    for (const Rule* rule : rules_.all())
      for (const Reason& reason : flight->reasons)
        if (reason.wait.held && reason.rule == rule->serial) holders.push_back(rule->id());
    if (holders.empty()) continue;
    const Request& request = *flight->parent;
    rows.push_back({{"ticket", ticket},
                    {"rules", holders},
                    {"op", op_name(request.op)},
                    {"offset_bytes", request.offset},
                    {"length_bytes", request.length},
                    {"front", front_name(request.front)},
                    {"connection", request.connection},
                    {"held_ms", static_cast<double>(now_ns() - flight->since_ns) / 1e6}});
  }
  return json{{"held", rows}};
}

// In the order in which the tickets are named: that is the order in which they go on.
Result<json> FaultLayer::release(const json& request) {
  std::vector<uint64_t> tickets;
  if (const json* named = pv::find(request, "tickets"); named != nullptr && !named->empty()) {
    for (const json& ticket : *named)
      tickets.push_back(ticket.is_number_unsigned() ? ticket.get<uint64_t>() : 0);
  } else {
    for (const auto& [ticket, flight] : waiting_)
      if (is_held(*flight)) tickets.push_back(ticket);
  }
  const std::string error = get_string(request, "error");
  int status = 0;
  if (!error.empty()) {
    TRY_ASSIGN(status, parse_errno(error));
  }
  const bool drop = get_bool(request, "drop");
  for (const uint64_t ticket : tickets) {
    const auto found = waiting_.find(ticket);
    if (found == waiting_.end() || !is_held(*found->second))
      return fail(Code::invalid, fmt::format("no request {} is held", ticket));
    const Op op = found->second->parent->op;
    if (drop && (op == Op::read || op == Op::map))
      return fail(Code::invalid,
                  fmt::format("request {} is a {}: only what changes the disk can be "
                              "dropped",
                              ticket, op_name(op)));
  }
  for (const uint64_t ticket : tickets) let_go(ticket, "release", status, drop);
  wake_waiting();
  return json{{"released", tickets}};
}

bool FaultLayer::is_held(const Flight& flight) {
  return std::any_of(flight.reasons.begin(), flight.reasons.end(),
                     [](const Reason& reason) { return reason.wait.held; });
}

void FaultLayer::let_go(uint64_t ticket, const char* who, int status, bool drop) {
  const auto found = waiting_.find(ticket);
  if (found == waiting_.end()) return;  // another one's completion has let it go
  Flight& flight = *found->second;
  if (status == 0 && !drop) return go_on(flight);
  if (flight.timer != 0) env_.timers.cancel(std::exchange(flight.timer, 0));
  waiting_.erase(found);
  JournalEntry entry = entry_for(*flight.parent);
  entry.rule = who;
  entry.kind = drop ? "drop" : "error";
  entry.requested = status;
  entry.delivered = delivered(entry.front, entry.op, status);
  record(entry);
  if (drop && (flight.parent->op == Op::write || flight.parent->op == Op::zero))
    truth_.remember(flight.reasons.front().rule, *flight.parent, 0, flight.parent->length);
  if (status != 0 && flight.parent->injected != nullptr)
    *flight.parent->injected = Injected{who, Phase::after_delay};
  flight.reasons.clear();
  finish(flight, status);
}

Result<json> FaultLayer::set_mark(const json& request) {
  const std::string name = get_string(request, "name");
  TRY(check_name("mark", name));
  static_cast<void>(lower().control({{"op", "record.mark"}, {"name", name}}));  // into a log, too
  const uint64_t count = ++scene_.marks[name];
  keep_rules();
  return json{{"mark", name}, {"count", count}};
}

Result<json> FaultLayer::set_state(const json& request) {
  const std::string name = get_string(request, "name");
  if (!name.empty()) {
    TRY(check_name("state", name));
    scene_.state = name;
    keep_rules();
  }
  return json{{"state", scene_.state}};
}

// The server ends: nobody will release what waits, and nothing may be lost without a word.
json FaultLayer::stop(int error, uint64_t within_ns) {
  std::vector<uint64_t> tickets;
  const uint64_t last = now_ns() + within_ns;
  for (const auto& [ticket, flight] : waiting_)
    if (within_ns == 0 || due(*flight) > last) tickets.push_back(ticket);
  for (const uint64_t ticket : tickets) let_go(ticket, "stop", error, false);
  return json::object();
}

// What waits has no power to go on with, and what would have landed late does not.
void FaultLayer::power_off() {
  stop(ECANCELED, 0);
  lose_late(0);
}

std::string FaultLayer::fresh_id(const std::map<std::string, size_t>& taken) {
  while (true) {
    std::string id = fmt::format("r{}", ++last_id_);
    if (rules_.find(id) == nullptr && taken.count(id) == 0) return id;
  }
}

}  // namespace pv::blk
