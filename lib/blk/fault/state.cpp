// SPDX-License-Identifier: MIT
// The fault layer in a snapshot: its rules and how far they have come, its clock, state and marks,
// what the medium should hold, what has yet to land. After a restore its journal goes on as it
// would have.
#include "blk/state.hpp"

#include <algorithm>
#include <cstring>
#include <fcntl.h>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/fault/layer.hpp"

namespace pv::blk {
namespace {

// a: the offset, b: the serial of the rule.
constexpr uint32_t k_truth = 1, k_late = 2, k_stale = 3;
constexpr uint64_t k_max_ns = uint64_t{1} << 62;
constexpr size_t k_due = sizeof(uint64_t);  // in front of the data of a late write: how long it has
constexpr size_t k_max_marks = 1 << 16;

std::string number_text(uint64_t number) {
  std::string bytes(k_due, '\0');
  std::memcpy(bytes.data(), &number, k_due);
  return bytes;
}

}  // namespace

//   state.busy           {"busy"}: what still moves by itself when no request is in flight
//   state.hold on        what would happen by itself waits, or goes on
//   state.flush_matters  {}, or unsupported: whether a flush would be noticed
Result<json> FaultLayer::state_op(const std::string& op, const json& request) {
  if (op == "state.flush_matters") {
    for (const Rule* rule : rules_.all())
      if (rule->latched() ||
          (!rule->match().ranged && (rule->match().ops & op_bit(Op::flush)) != 0))
        return json::object();
    return lower().control(request);
  }
  if (op == "state.hold") still_ = get_bool(request, "on");
  const auto below = lower().control(request);
  if (op != "state.busy") return json::object();
  size_t busy = repairs_ + queued_.size() + settling_.size();
  for (const auto& late : late_) busy += late->landing ? 1 : 0;
  return json{{"busy", busy + (below ? get_u64(*below, "busy") : 0)}};
}

json FaultLayer::section() const {
  json rules = json::array();
  for (const Rule* rule : rules_.all()) rules.push_back(rule->saved());
  json marks = json::object();
  for (const auto& [name, count] : scene_.marks)
    if (count != 0) marks[name] = count;
  return {{"now_ns", now_ns()},
          {"state", scene_.state},
          {"marks", std::move(marks)},
          {"last_id", last_id_},
          {"last_serial", last_serial_},
          {"last_ticket", last_ticket_},
          {"last_event", journal_.last()},
          {"rules", std::move(rules)}};
}

Result<> FaultLayer::save_state(StateOut& out) {
  out.section("fault", section());
  TRY(save_records(out));
  return lower().save_state(out);
}

Result<> FaultLayer::save_records(StateOut& out) const {
  TRY(truth_.each([&](uint64_t offset, uint64_t rule, const char* data) {
    return out.record({k_truth, offset, rule, std::string(data, truth_.sector_size())});
  }));
  for (const auto& late : late_) {
    const uint64_t now = now_ns(), left = late->due_ns > now ? late->due_ns - now : 0;
    TRY(out.record({k_late, late->request.offset, late->rule,
                    number_text(left) + std::string(late->data.get(), late->request.length)}));
  }
  for (const Rule* rule : rules_.keepers())
    TRY(rule->action().each_kept([&](uint64_t offset, const char* data, uint64_t length) {
      return out.record({k_stale, offset, rule->serial, std::string(data, length)});
    }));
  return {};
}

Result<> FaultLayer::load_state(StateIn& in) {
  TRY_ASSIGN(const json* state, in.section("fault"));
  const uint64_t then = get_u64(*state, "now_ns"), last = get_u64(*state, "last_event");
  if (then >= k_max_ns || last >= k_max_ns) return bad_state("fault", "its clock or its journal");
  begin_at(then);
  journal_.continue_after(last);
  TRY(load_rules(*state));
  while (in.left() != 0) TRY(load_record(in));
  keep_rules();
  return lower().load_state(in);
}

// The clock goes on from there.
void FaultLayer::begin_at(uint64_t then) {
  started_ns_ = env_.clock.now_ns() - then;
  began_wall_ns_ = env_.clock.wall_ns() - then;
}

// A server that was killed has lost what was on its way: late writes, and what a repair would have
// put back. The time that nobody served is time that has passed.
Result<> FaultLayer::keep() {
  TRY_ASSIGN(kept_, KeptRules::open(env_.dir));
  TRY_ASSIGN(const json before, kept_->load());
  if (!before.is_null()) {
    const uint64_t then = get_u64(before, "now_ns"), wall = env_.clock.wall_ns();
    const uint64_t began = get_u64(before, "began_wall_ns");
    begin_at(std::max(then, wall > began ? wall - began : 0));
    journal_.adopt(kept_->journal(), get_u64(before, "last_event"));
    TRY(load_rules(before));
  }
  keep_rules();
  return {};
}

// One that cannot be written goes into the server's log; the disk is served all the same.
void FaultLayer::keep_rules() {
  if (!kept_) return;
  json section = this->section();
  section["began_wall_ns"] = began_wall_ns_;
  if (auto saved = kept_->save(section, rules_.all()); !saved)
    fmt::print(stderr, "{}\n", saved.error().message);
}

Result<> FaultLayer::load_rules(const json& state) {
  last_id_ = get_u64(state, "last_id");
  last_serial_ = get_u64(state, "last_serial");
  last_ticket_ = get_u64(state, "last_ticket");
  const json* marks = pv::find(state, "marks");
  const json* rules = pv::find(state, "rules");
  scene_.state = get_string(state, "state");
  if (!check_name("state", scene_.state) || marks == nullptr || !marks->is_object() ||
      marks->size() > k_max_marks)
    return bad_state("fault", "its state or its marks");
  for (const auto& [name, count] : marks->items()) {
    if (!check_name("mark", name) || !count.is_number_unsigned())
      return bad_state("fault", "its marks");
    scene_.marks[name] = count.get<uint64_t>();
  }
  if (rules == nullptr || !rules->is_array() || rules->size() > RuleSet::k_max_rules)
    return bad_state("fault", "its rules");
  const RuleGround here = ground();
  uint64_t serial = 0;
  std::set<std::string> ids;
  for (const json& saved : *rules) {
    TRY_ASSIGN(Rule rule, Rule::from_saved(saved, here));
    if (!ids.insert(rule.id()).second || rule.serial <= serial || rule.serial > last_serial_ ||
        rule.added_ns > now_ns())
      return bad_state("fault", "the order of its rules");
    serial = rule.serial;
    rule.mark = &scene_.marks[rule.id()];
    rules_.add(std::move(rule));
  }
  rules_.index();
  return {};
}

Result<> FaultLayer::load_record(StateIn& in) {
  TRY_ASSIGN(const StateRecord record, in.record());
  const size_t skip = record.kind == k_late ? k_due : 0;
  const uint64_t size = geometry().size, sector = geometry().sector_size;
  if (record.bytes.size() <= skip) return bad_state("fault", "an empty record");
  const uint64_t length = record.bytes.size() - skip;
  if (record.a > size || length > size - record.a || (record.a | length) % sector != 0)
    return bad_state("fault", "a record that reaches past the end");
  if (record.b > last_serial_) return bad_state("fault", "a record of no rule");
  const char* data = record.bytes.data() + skip;
  if (record.kind == k_truth) {
    truth_.remember(record.b, record.a, data, length);
    return {};
  }
  if (record.kind == k_late) {
    uint64_t left = 0;
    std::memcpy(&left, record.bytes.data(), k_due);
    if (left >= k_max_ns) return bad_state("fault", "the time of a late write");
    iovec piece{const_cast<char*>(data), length};
    Request request;
    request.op = Op::write;
    request.offset = record.a;
    request.length = length;
    request.data = &piece;
    request.segments = 1;
    write_later(left, record.b, request);
    return {};
  }
  if (record.kind != k_stale) return bad_state("fault", "a record of another kind");
  for (Rule* rule : rules_.keepers())
    if (rule->serial == record.b) rule->action().keep_old(record.a, data, length);
  return {};
}

}  // namespace pv::blk
