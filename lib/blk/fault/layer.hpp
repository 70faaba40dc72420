// SPDX-License-Identifier: MIT
// The fault layer. Each request goes
//
//   arrival ── marks ── delay rules ──(wait)── outcome rules ── I/O ── outcome rules that came
//   since
//
// so that a fault that is set while a request sleeps, or while it is in flight, takes effect. A
// rule looks at each request at most once, however often the request is looked at. Owned by its
// stack, on the loop's thread like every layer.
//
// layer/fault.cpp is the way of a request, carry.cpp the I/O that faults ask for, control.cpp the
// conversation with pv-fault, greet.cpp the one with a front end, state.cpp what a snapshot keeps.
#pragma once

#include <map>
#include <set>

#include "blk/child.hpp"
#include "blk/fault/journal.hpp"
#include "blk/fault/kept.hpp"
#include "blk/fault/rules.hpp"
#include "blk/fault/truth.hpp"
#include "blk/histogram.hpp"

namespace pv::blk {

class FaultLayer final : public Forward, private Bench {
 public:
  FaultLayer(std::unique_ptr<Disk> lower, const Env& env, uint64_t journal_bytes);
  ~FaultLayer() override;

  // Goes on with what a server before has kept of this disk, and keeps from now on.
  Result<> keep();

  void submit(Request& request) override;
  bool looks_at(const Request& request) const override;
  Result<json> control(const json& request) override;
  void inspect(json& out) const override;
  const Geometry& geometry() const override { return Forward::geometry(); }
  Result<> save_state(StateOut& out) override;
  Result<> load_state(StateIn& in) override;

 private:
  // Why a request waits: one entry for each rule that makes it.
  struct Reason {
    uint64_t rule;  // serial
    Wait wait;
  };
  // One request on its way through.
  struct Flight {
    Request child;
    Request* parent = nullptr;
    FaultLayer* layer = nullptr;
    uint64_t arrived = 0;  // serial of the newest rule at arrival
    uint64_t decided = 0;  // ... and when the outcome was decided
    bool in_io = false;    // has been submitted below as it stands

    uint64_t ticket = 0;    // while it waits
    uint64_t since_ns = 0;  // when it began to
    TimerId timer = 0;
    std::vector<Reason> reasons;

    bool acted = false;  // an outcome has been decided; what follows is set
    std::shared_ptr<const Action> action;
    std::string rule;
    const char* kind = "";
    uint64_t match = 0;
    uint64_t event = 0;  // its number in the journal
    int promised = 0;    // the status that was recorded

    Outcome outcome;
    size_t step = 0;
    std::vector<iovec> pieces;  // of the step
    bool stepping = false, step_answered = false;
    int step_error = 0;
  };
  // A write of this layer's own, that nobody waits for: a late one, or a repair.
  struct Late {
    FaultLayer* layer = nullptr;
    Request request;
    std::shared_ptr<char[]> data, before;
    iovec piece{};
    TimerId timer = 0;
    uint64_t rule = 0;
    uint64_t due_ns = 0;  // on the layer's clock
    bool repairs = false;
    bool landing = false;
  };
  static constexpr uint64_t k_max_kept = 32 << 20;  // a request is no longer than that

  // layer/fault.cpp
  void arrive(Request& request);
  void look_at_marks(Flight& flight, const RuleSet::List& rules);
  void look_at_delays(Flight& flight, const RuleSet::List& rules);
  bool fires(Rule& rule, const Flight& flight);
  bool counts(Rule& rule);
  Case case_of(const Rule& rule, const Flight& flight);
  static uint64_t due(const Flight& flight);
  void wait(Flight& flight);
  void arm(Flight& flight);
  void go_on(Flight& flight);
  void wake_waiting();
  void drop_reason(Flight& flight, uint64_t rule);
  void decide(Flight& flight);
  void look_at_outcomes(Flight& flight, uint64_t newer_than);
  void forward(Flight& flight);
  void after_io(Flight& flight, int error);
  void finish(Flight& flight, int error);
  JournalEntry entry_for(const Request& request) const;
  uint64_t record(const JournalEntry& entry);
  void record_fired(const Rule& rule, const Flight& flight, const Wait* wait);
  void record_outcome(const Rule& rule, Flight& flight);

  // carry.cpp
  void next_step(Flight& flight);
  void prepare_step(Flight& flight);
  bool step_done(Flight& flight);
  void changed(Op op, uint64_t offset, uint64_t length);
  void keep_old_first(Flight& flight);
  Late& new_late(uint64_t rule, uint64_t offset, uint64_t length, std::shared_ptr<char[]> data);
  void land(Late& late);
  void write_late(Late& late);
  void landed(Late& late, int error);
  void note_damage(const Late& late);
  void settle(Request& flush);
  void lose_late(uint64_t rule);
  uint64_t repair(uint64_t rule);

  // control.cpp
  RuleGround ground() const;
  Result<json> add(const json& request);
  void admit(Rule rule);
  Result<json> clear(const json& request);
  Result<json> list() const;
  Result<json> held() const;
  Result<json> release(const json& request);
  static bool is_held(const Flight& flight);
  void let_go(uint64_t ticket, const char* who, int status, bool drop);
  Result<json> set_mark(const json& request);
  Result<json> set_state(const json& request);
  json stop(int error, uint64_t within_ns);
  void power_off();
  std::string fresh_id(const std::map<std::string, size_t>& taken);

  // state.cpp
  json section() const;
  void begin_at(uint64_t then);
  void keep_rules();
  Result<json> state_op(const std::string& op, const json& request);
  Result<> save_records(StateOut& out) const;
  Result<> load_rules(const json& state);
  Result<> load_record(StateIn& in);

  // greet.cpp
  json greet(const json& request);

  // Bench
  uint64_t now_ns() const override { return env_.clock.now_ns() - started_ns_; }
  void mark(const std::string& name) override { ++scene_.marks[name]; }
  Truth& truth() override { return truth_; }
  Result<json> lose_power(const json& drop) override {
    lose_late(0);
    return lower().control(drop);
  }
  bool waits(uint64_t ticket) const override { return waiting_.count(ticket) != 0; }
  void wake(uint64_t rule, const std::vector<uint64_t>& tickets) override {
    for (const uint64_t ticket : tickets) to_wake_.push_back({ticket, rule});
  }
  void write_later(uint64_t after_ns, uint64_t rule, const Request& request) override;

  Env env_;
  uint64_t started_ns_;
  uint64_t began_wall_ns_;  // the same instant for people
  RuleSet rules_;
  bool latched_ = false;  // a rule has; the index is to be made anew
  Scene scene_;
  Truth truth_;
  Journal journal_;
  std::unique_ptr<KeptRules> kept_;
  TimerId journal_timer_ = 0;
  Pool<Flight> flights_;
  std::map<uint64_t, Flight*> waiting_;                 // by ticket
  std::vector<std::pair<uint64_t, uint64_t>> to_wake_;  // ticket, serial of the rule
  std::vector<std::unique_ptr<Late>> late_;
  std::vector<Request*> settling_;  // internal flushes that wait for late_ to be empty
  std::vector<Request*> queued_;    // changes that wait for a repair
  size_t repairs_ = 0;              // under way
  bool still_ = false;              // a snapshot is being written: nothing lands
  Histogram lateness_;              // of delays, against what the rules said
  uint64_t last_serial_ = 0;
  uint64_t last_id_ = 0;
  uint64_t last_ticket_ = 0;
};

}  // namespace pv::blk
