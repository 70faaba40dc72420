// SPDX-License-Identifier: MIT
// The way of a request through the fault layer.
#include <algorithm>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/fault/layer.hpp"
#include "blk/layer/layers.hpp"
#include "blk/wire.hpp"

namespace pv::blk {
namespace {

constexpr uint64_t k_min_journal = 1 << 20, k_max_journal = 16ULL << 30;
constexpr uint64_t k_journal_delay_ns = 50 * k_ns_per_ms;  // until an event is in its file

constexpr ParamSpec k_fault_params[] = {
    {"journal", "SIZE", "how large the journal may get before the oldest events go (default 64M)"},
};

}  // namespace

FaultLayer::FaultLayer(std::unique_ptr<Disk> lower, const Env& env, uint64_t journal_bytes)
    : Forward(std::move(lower)),
      env_(env),
      started_ns_(env.clock.now_ns()),
      began_wall_ns_(env.clock.wall_ns()),
      truth_(geometry().sector_size),
      journal_(env.dir, journal_bytes) {}

FaultLayer::~FaultLayer() {
  if (journal_timer_ != 0) env_.timers.cancel(journal_timer_);
  for (const auto& late : late_) env_.timers.cancel(late->timer);
}

void FaultLayer::submit(Request& request) {
  if ((request.flags & k_internal) != 0) {
    if (request.op == Op::flush && !late_.empty()) return settle(request);
    return lower().submit(request);
  }
  if (repairs_ != 0 && changes_data(request.op)) {
    queued_.push_back(&request);
    return;
  }
  // Also without a rule the request is followed to its end: one may come while it is in flight.
  arrive(request);
}

// A rule that comes while the request is in flight does to the guest's memory what it can.
bool FaultLayer::looks_at(const Request& request) const {
  if ((request.flags & k_internal) != 0 || rules_.size() == 0) return false;
  return !rules_.candidates(request).empty() || !rules_.keepers().empty();
}

void FaultLayer::arrive(Request& request) {
  Flight& flight = *flights_.take();
  flight.parent = &request;
  flight.layer = this;
  flight.arrived = last_serial_;
  flight.in_io = flight.acted = false;
  flight.step = 0;
  ++scene_.in_flight;
  if (rules_.size() == 0) {
    flight.decided = last_serial_;
    return forward(flight);
  }
  for (Rule* rule : rules_.watchers()) rule->action().saw(request, rule->serial, *this);
  wake_waiting();
  const RuleSet::List& rules = rules_.candidates(request);
  if (rules.empty() && rules_.keepers().empty()) {
    flight.decided = last_serial_;
    return forward(flight);
  }
  look_at_marks(flight, rules);
  look_at_delays(flight, rules);
  if (flight.reasons.empty())
    decide(flight);
  else
    wait(flight);
  wake_waiting();
}

Case FaultLayer::case_of(const Rule& rule, const Flight& flight) {
  return {*flight.parent,      *this,         rule.serial,  rule.match().ranges,
          rule.match_number(), rule.chance(), flight.ticket};
}

// Counts a match, if it is one, and says whether the rule fires.
bool FaultLayer::fires(Rule& rule, const Flight& flight) {
  if (!rule.matches(*flight.parent, scene_, rule.conditional() ? now_ns() : 0)) return false;
  if (!rule.action().concerns(case_of(rule, flight))) return false;
  return counts(rule);
}

bool FaultLayer::counts(Rule& rule) {
  const bool was_latched = rule.latched();
  if (!rule.count()) return false;
  if (!rule.next_state().empty()) {
    scene_.state = rule.next_state();
    if (kept_) kept_->set_state(scene_.state);
  }
  latched_ = latched_ || rule.latched() != was_latched;
  return true;
}

void FaultLayer::look_at_marks(Flight& flight, const RuleSet::List& rules) {
  if (!rules_.has(Stage::mark)) return;
  for (Rule* rule : rules) {
    if (rule->stage() != Stage::mark || !fires(*rule, flight)) continue;
    rule->action().note_mark(case_of(*rule, flight));
    record_fired(*rule, flight, nullptr);
  }
}

void FaultLayer::look_at_delays(Flight& flight, const RuleSet::List& rules) {
  if (!rules_.has(Stage::delay)) return;
  flight.ticket = ++last_ticket_;
  for (Rule* rule : rules) {
    if (rule->stage() != Stage::delay || !fires(*rule, flight)) continue;
    Wait wait = rule->action().wait(case_of(*rule, flight));
    // What a rule holds goes on when the rule's time is over.
    const uint64_t left = rule->left_ns(now_ns());
    if (wait.held && left != UINT64_MAX) wait.ns = wait.ns == 0 ? left : std::min(wait.ns, left);
    record_fired(*rule, flight, &wait);
    if (wait.held || wait.ns != 0) flight.reasons.push_back({rule->serial, wait});
  }
}

// When the wait of a request is over: UINT64_MAX when only a release ends it.
uint64_t FaultLayer::due(const Flight& flight) {
  uint64_t delay = 0, latest = 0;
  for (const Reason& reason : flight.reasons) {
    if (!reason.wait.held)
      delay += reason.wait.ns;
    else if (reason.wait.ns == 0)
      return UINT64_MAX;
    else
      latest = std::max(latest, reason.wait.ns);
  }
  return flight.since_ns + std::max(delay, latest);
}

void FaultLayer::wait(Flight& flight) {
  flight.since_ns = now_ns();
  flight.timer = 0;
  waiting_[flight.ticket] = &flight;
  arm(flight);
}

void FaultLayer::arm(Flight& flight) {
  if (flight.timer != 0) env_.timers.cancel(std::exchange(flight.timer, 0));
  const uint64_t at = due(flight), now = now_ns();
  if (at == UINT64_MAX) return;
  flight.timer = env_.timers.after(at > now ? at - now : 0, [this, &flight, at] {
    flight.timer = 0;
    lateness_.add(now_ns() - at);
    go_on(flight);
    wake_waiting();
  });
}

void FaultLayer::go_on(Flight& flight) {
  if (flight.timer != 0) env_.timers.cancel(std::exchange(flight.timer, 0));
  waiting_.erase(flight.ticket);
  flight.reasons.clear();
  decide(flight);
}

// What a rule has let go goes on, unless another one makes it wait too.
void FaultLayer::wake_waiting() {
  while (!to_wake_.empty()) {
    const auto batch = std::exchange(to_wake_, {});
    for (const auto& [ticket, rule] : batch) {
      const auto found = waiting_.find(ticket);
      if (found != waiting_.end()) drop_reason(*found->second, rule);
    }
  }
  if (std::exchange(latched_, false)) rules_.index();
}

void FaultLayer::drop_reason(Flight& flight, uint64_t rule) {
  const auto end = std::remove_if(flight.reasons.begin(), flight.reasons.end(),
                                  [&](const Reason& reason) { return reason.rule == rule; });
  if (end == flight.reasons.end()) return;
  flight.reasons.erase(end, flight.reasons.end());
  if (flight.reasons.empty())
    go_on(flight);
  else
    arm(flight);
}

void FaultLayer::decide(Flight& flight) {
  flight.decided = last_serial_;
  look_at_outcomes(flight, 0);
  if (!rules_.keepers().empty() && changes_data(flight.parent->op)) keep_old_first(flight);
  next_step(flight);
}

// Asks every rule that is newer than `newer_than`; the first outcome decides.
void FaultLayer::look_at_outcomes(Flight& flight, uint64_t newer_than) {
  if (!rules_.has(Stage::outcome)) return;
  for (Rule* rule : rules_.candidates(*flight.parent)) {
    if (rule->stage() != Stage::outcome || rule->serial <= newer_than) continue;
    if (flight.in_io && !rule->action().after_io()) continue;
    if (!fires(*rule, flight)) continue;
    flight.action = rule->shared_action();
    rule->action().decide(case_of(*rule, flight), flight.outcome);
    flight.acted = true;
    if (WireFault* wire = flight.parent->wire) {
      flight.outcome.wire.structured = wire->structured;
      *wire = flight.outcome.wire;
    }
    record_outcome(*rule, flight);
    return;
  }
}

void FaultLayer::forward(Flight& flight) {
  flight.in_io = true;
  make_child(flight.child, *flight.parent, &flight, [](Request& child, int error) {
    auto& done = *static_cast<Flight*>(child.owner);
    done.layer->after_io(done, error);
  });
  if (flight.acted) flight.child.flags &= ~flight.outcome.drop_flags;
  if (flight.acted && flight.outcome.wire.kind != WireFault::none)
    flight.child.wire = nullptr;  // it is spoken for
  lower().submit(flight.child);
}

void FaultLayer::after_io(Flight& flight, int error) {
  const Request& request = *flight.parent;
  if (error != 0) return finish(flight, error);
  if (changes_data(request.op)) changed(request.op, request.offset, request.length);
  if (!flight.acted && last_serial_ > flight.decided) {
    flight.outcome = Outcome{};
    look_at_outcomes(flight, flight.decided);
    if (std::exchange(latched_, false)) rules_.index();
  }
  finish(flight, flight.acted ? flight.outcome.status : 0);
}

void FaultLayer::finish(Flight& flight, int error) {
  Request* parent = flight.parent;
  const bool cut = flight.outcome.wire.kind == WireFault::hang_up;  // whatever the status is
  if (flight.acted && error != flight.promised && !cut) {
    if (parent->wire != nullptr) *parent->wire = WireFault{};
    if (parent->injected != nullptr) *parent->injected = Injected{};
    // What was on record has not come to pass: the disk below had an error of its own.
    JournalEntry entry = entry_for(*parent);
    const std::string note = fmt::format(R"("corrects":{})", flight.event);
    entry.rule = flight.rule;
    entry.kind = flight.kind;
    entry.match = flight.match;
    entry.note = note;
    entry.requested = flight.promised;
    entry.delivered = delivered(parent->front, parent->op, error);
    record(entry);
  }
  if (flight.acted) flight.action.reset();
  if (flight.acted || flight.step != 0) flight.outcome = Outcome{};
  --scene_.in_flight;
  flights_.give(&flight);
  parent->done(*parent, error);
}

JournalEntry FaultLayer::entry_for(const Request& request) const {
  JournalEntry entry;
  entry.t_ns = now_ns();
  entry.op = request.op;
  entry.front = request.front;
  entry.connection = request.connection;
  entry.offset = request.offset;
  entry.length = request.length;
  return entry;
}

uint64_t FaultLayer::record(const JournalEntry& entry) {
  if (journal_timer_ == 0)
    journal_timer_ = env_.timers.after(k_journal_delay_ns, [this] {
      journal_timer_ = 0;
      journal_.write_out();
    });
  const uint64_t number = journal_.add(entry);
  if (kept_) {
    journal_.write_out();
    kept_->set_events(number, last_ticket_, journal_.prefix());
  }
  if (env_.on_fault) env_.on_fault();
  return number;
}

// A mark, or, with a `wait`, a delay.
void FaultLayer::record_fired(const Rule& rule, const Flight& flight, const Wait* wait) {
  JournalEntry entry = entry_for(*flight.parent);
  entry.rule = rule.id();
  entry.kind = rule.kind();
  entry.match = rule.match_number();
  if (wait != nullptr) {
    entry.waits = true;
    entry.delay_ns = wait->ns;
    if (wait->held) entry.note = R"("held":true)";
  }
  record(entry);
}

void FaultLayer::record_outcome(const Rule& rule, Flight& flight) {
  const Request& request = *flight.parent;
  flight.rule = rule.id();
  flight.kind = rule.kind();
  flight.match = rule.match_number();
  flight.promised = flight.outcome.status;
  JournalEntry entry = entry_for(request);
  entry.rule = flight.rule;
  entry.kind = flight.kind;
  entry.match = flight.match;
  entry.phase = flight.in_io                    ? Phase::after_io
                : rule.serial <= flight.arrived ? Phase::before
                                                : Phase::after_delay;
  entry.requested = flight.promised;
  entry.delivered = delivered(request.front, request.op, flight.promised);
  entry.wire = flight.outcome.wire.kind;
  entry.note = flight.outcome.note;
  flight.event = record(entry);
  // Also where the status is good: a layer above may want to know what it has met.
  if (request.injected) *request.injected = Injected{flight.rule, entry.phase};
}

std::span<const ParamSpec> fault_params() {
  return k_fault_params;
}

Result<std::unique_ptr<Disk>> make_fault(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                         const Env& env) {
  uint64_t bytes = Journal::k_default_bytes;
  if (const auto given = spec.params.find("journal"); given != spec.params.end()) {
    const auto size = parse_size(given->second);
    if (!size || *size < k_min_journal || *size > k_max_journal)
      return fail(Code::usage, fmt::format("layer 'fault': journal={} is not a size from 1M to 16G",
                                           given->second));
    bytes = *size;
  }
  auto layer = std::make_unique<FaultLayer>(std::move(lower), env, bytes);
  if (env.keeps) TRY(layer->keep());
  return layer;
}

}  // namespace pv::blk
