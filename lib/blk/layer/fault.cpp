// SPDX-License-Identifier: MIT
// The fault layer. Each request goes
//
//   arrival ── delay rules ──(wait)── outcome rules ── I/O ── outcome rules that came meanwhile
//
// so that a fault that is set while a request sleeps, or while it is in flight, takes effect. A
// rule looks at each request at most once, however often the request is looked at.
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/text.hpp"
#include "blk/child.hpp"
#include "blk/fault/journal.hpp"
#include "blk/fault/kinds.hpp"
#include "blk/fault/rule.hpp"
#include "blk/layer/layers.hpp"
#include "blk/wire.hpp"

namespace pv::blk {
namespace {

constexpr size_t k_max_rules = 4096;
constexpr size_t k_max_journal_reply = 4096;

class FaultLayer final : public Forward {
 public:
  FaultLayer(std::unique_ptr<Disk> lower, const Env& env)
      : Forward(std::move(lower)), env_(env), started_ns_(env.clock.now_ns()) {}

  void submit(Request& request) override {
    if ((request.flags & k_internal) != 0) return lower().submit(request);
    // Also without a rule the request is followed to its end: one may come while it is in flight.
    arrive(request);
  }

  Result<json> control(const json& request) override {
    const std::string op = get_string(request, "op");
    if (op == "fault.add") return add(request);
    if (op == "fault.clear") return clear(request);
    if (op == "fault.list") return list();
    if (op == "fault.journal") return read_journal(request);
    return lower().control(request);
  }

  void inspect(json& out) const override {
    json ids = json::array();
    for (const Rule& rule : rules_) ids.push_back(rule.id);
    out["faults"] = ids;
    lower().inspect(out);
  }

 private:
  // One request on its way through; doubles as the child request and as the view of the actions.
  struct Flight final : public Passage {
    Request child;
    Request* parent = nullptr;
    FaultLayer* layer = nullptr;
    const Rule* acting = nullptr;  // while an action is applied
    uint64_t arrived = 0;          // serial of the newest rule at arrival
    uint64_t decided = 0;          // ... and when the outcome was decided
    uint64_t delay_ns = 0;
    int error = 0;
    bool failed = false;
    bool in_io = false;  // has been submitted below
    Phase phase = Phase::before;

    const Request& request() const override { return *parent; }
    void add_delay(uint64_t ns) override {
      delay_ns += ns;
      layer->note(*this, ns);
    }
    void fail(int with) override {
      error = with;
      failed = true;
      layer->note(*this, 0);
    }
  };

  void arrive(Request& request) {
    Flight* flight = flights_.take();
    flight->parent = &request;
    flight->layer = this;
    flight->arrived = last_serial_;
    flight->delay_ns = 0;
    flight->error = 0;
    flight->failed = false;
    flight->in_io = false;
    if (rules_.empty()) return forward(*flight);
    apply(*flight, Stage::delay, 0);
    if (flight->delay_ns == 0) return decide(*flight);
    env_.timers.after(flight->delay_ns, [this, flight] { decide(*flight); });
  }

  void decide(Flight& flight) {
    apply(flight, Stage::outcome, 0);
    if (flight.failed) return finish(flight);
    forward(flight);
  }

  void forward(Flight& flight) {
    flight.decided = last_serial_;
    flight.in_io = true;
    make_child(flight.child, *flight.parent, &flight, [](Request& child, int error) {
      auto& done = *static_cast<Flight*>(child.owner);
      done.layer->after_io(done, error);
    });
    lower().submit(flight.child);
  }

  void after_io(Flight& flight, int error) {
    flight.error = error;
    if (error == 0 && last_serial_ > flight.decided) apply(flight, Stage::outcome, flight.decided);
    finish(flight);
  }

  // Asks every rule of one stage that is newer than `newer_than`; the first outcome decides.
  void apply(Flight& flight, Stage stage, uint64_t newer_than) {
    for (Rule& rule : rules_) {
      if (rule.stage() != stage || rule.serial <= newer_than || !rule.take(*flight.parent))
        continue;
      flight.phase = flight.in_io                    ? Phase::after_io
                     : rule.serial <= flight.arrived ? Phase::before
                                                     : Phase::after_delay;
      flight.acting = &rule;
      rule.action().apply(flight);
      if (flight.failed) return;
    }
  }

  void note(const Flight& flight, uint64_t delay_ns) {
    const Request& request = *flight.parent;
    JournalEntry entry;
    entry.t_ns = env_.clock.now_ns() - started_ns_;
    entry.rule = flight.acting->id;
    entry.kind = flight.acting->stage() == Stage::delay ? "delay" : "error";
    entry.op = request.op;
    entry.front = request.front;
    entry.connection = request.connection;
    entry.offset = request.offset;
    entry.length = request.length;
    entry.delay_ns = delay_ns;
    entry.phase = flight.phase;
    entry.requested = flight.error;
    entry.delivered = delivered(request.front, request.op, flight.error);
    journal_.add(std::move(entry));
    if (flight.failed && request.injected)
      *request.injected = Injected{flight.acting->id, flight.phase};
  }

  void finish(Flight& flight) {
    Request* parent = flight.parent;
    const int error = flight.error;
    flights_.give(&flight);
    parent->done(*parent, error);
  }

  Result<json> add(const json& request) {
    const json* object = pv::find(request, "rule");
    if (!object) return fail(Code::bad_rule, "no rule given");
    TRY_ASSIGN(Rule rule, Rule::parse(*object, geometry().size));
    if (rule.id.empty()) rule.id = fresh_id();
    for (const Rule& known : rules_) {
      if (known.id != rule.id) continue;
      // The same rule twice is the same rule: faults are a set.
      if (known.definition() == rule.definition()) return json{{"rule", known.to_json()}};
      return fail(Code::duplicate_name, fmt::format("rule '{}' exists and is different", rule.id));
    }
    if (rules_.size() >= k_max_rules)
      return fail(Code::invalid, fmt::format("more than {} rules on one disk", k_max_rules));
    rule.serial = ++last_serial_;
    rules_.push_back(std::move(rule));
    return json{{"rule", rules_.back().to_json()}};
  }

  Result<json> clear(const json& request) {
    const std::string id = get_string(request, "id");
    json cleared = json::array();
    std::vector<Rule> kept;
    for (Rule& rule : rules_) {
      if (id.empty() || rule.id == id)
        cleared.push_back(rule.to_json());
      else
        kept.push_back(std::move(rule));
    }
    rules_ = std::move(kept);
    if (!id.empty() && cleared.empty()) {
      std::vector<std::string> known;
      for (const Rule& rule : rules_) known.push_back(rule.id);
      return fail(Error(Code::no_such_rule, fmt::format("no rule '{}' on this disk (rules: {})", id,
                                                        known.empty() ? "none" : join(known, " ")))
                      .with("valid", known));
    }
    return json{{"cleared", cleared}};
  }

  Result<json> list() const {
    json rows = json::array();
    for (const Rule& rule : rules_) rows.push_back(rule.to_json());
    return json{{"rules", rows}};
  }

  Result<json> read_journal(const json& request) const {
    const uint64_t max =
        std::min<uint64_t>(get_u64(request, "max", k_max_journal_reply), k_max_journal_reply);
    return json{{"events", journal_.read(get_u64(request, "since"), max)},
                {"last", journal_.last()},
                {"dropped", journal_.dropped()}};
  }

  std::string fresh_id() {
    while (true) {
      std::string id = fmt::format("r{}", ++last_id_);
      const auto same = [&](const Rule& rule) { return rule.id == id; };
      if (std::none_of(rules_.begin(), rules_.end(), same)) return id;
    }
  }

  Env env_;
  uint64_t started_ns_;
  std::vector<Rule> rules_;  // in the order in which they were added
  Pool<Flight> flights_;
  Journal journal_;
  uint64_t last_serial_ = 0;
  uint64_t last_id_ = 0;
};

}  // namespace

std::span<const ParamSpec> fault_params() {
  return {};
}

Result<std::unique_ptr<Disk>> make_fault(std::unique_ptr<Disk> lower, const LayerSpec&,
                                         const Env& env) {
  return std::make_unique<FaultLayer>(std::move(lower), env);
}

}  // namespace pv::blk
