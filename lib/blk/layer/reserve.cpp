// SPDX-License-Identifier: MIT
// Persistent reservations, kept in memory: who may read and write is decided by the host that a
// request comes from (Request::host). The rules are in blk/reservation.hpp.
//
// A preempt-and-abort ends the requests of its victims with ECANCELED, but not before they have
// come back from below: their buffers are the caller's, and the disk below may still be at work on
// them. What comes in meanwhile waits, so that nothing old lands on top of what the new holder
// writes.
#include <algorithm>
#include <cerrno>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/child.hpp"
#include "blk/layer/layers.hpp"
#include "blk/reservation.hpp"
#include "blk/state.hpp"

namespace pv::blk {
namespace {

constexpr size_t k_max_file = 1 << 20;

constexpr ParamSpec k_reserve_params[] = {
    {"ptpl", "FILE", "where reservations that persist through a power loss are kept",
     ParamSpec::path},
};

struct ActionRow {
  const char* op;
  ReserveAction action;
};
constexpr ActionRow k_actions[] = {
    {"reserve.register", ReserveAction::register_key},
    {"reserve.register_ignore", ReserveAction::register_ignore},
    {"reserve.reserve", ReserveAction::reserve},
    {"reserve.release", ReserveAction::release},
    {"reserve.clear", ReserveAction::clear},
    {"reserve.preempt", ReserveAction::preempt},
    {"reserve.preempt_abort", ReserveAction::preempt_abort},
};

class Reserve final : public Forward {
 public:
  Reserve(std::unique_ptr<Disk> lower, std::string file, Reservations state)
      : Forward(std::move(lower)), file_(std::move(file)), state_(std::move(state)) {}

  void submit(Request& request) override {
    if (aborting_ != 0) return waiting_.push_back(&request);
    if (!state_.allows(request.host, request.op)) {
      ++conflicts_;
      return request.done(request, EBADE);
    }
    Flight* flight = flights_.take();
    flight->parent = &request;
    flight->layer = this;
    flight->aborted = false;
    flight->place = in_flight_.size();
    in_flight_.push_back(flight);
    make_child(flight->child, request, flight, [](Request& child, int error) {
      auto& done = *static_cast<Flight*>(child.owner);
      done.layer->ended(done, error);
    });
    lower().submit(flight->child);
  }

  Result<json> control(const json& request) override {
    const std::string op = get_string(request, "op");
    if (op == "reserve.report") return json{{"reservation", report()}};
    for (const ActionRow& row : k_actions)
      if (op == row.op) return act(row.action, request);
    return lower().control(request);
  }

  Result<> save_state(StateOut& out) override {
    out.section("reserve", state_.snapshot());
    return lower().save_state(out);
  }

  Result<> load_state(StateIn& in) override {
    TRY_ASSIGN(const json* saved, in.section("reserve"));
    auto state = Reservations::from_snapshot(*saved);
    if (!state || in.left() != 0)
      return bad_state("reserve", state ? "records" : state.error().message);
    if (state->ptpl() && file_.empty()) return bad_state("reserve", "it has no file to persist in");
    TRY(save(*state));
    state_ = std::move(*state);
    return lower().load_state(in);
  }

  void inspect(json& out) const override {
    out["reserve"] = report();
    out["reserve"]["conflicts"] = conflicts_;
    out["reserve"]["aborted"] = aborted_;
    lower().inspect(out);
  }

 private:
  struct Flight {
    Request child;
    Request* parent = nullptr;
    Reserve* layer = nullptr;
    size_t place = 0;  // in in_flight_
    bool aborted = false;
  };

  void ended(Flight& flight, int error) {
    in_flight_.back()->place = flight.place;
    in_flight_[flight.place] = in_flight_.back();
    in_flight_.pop_back();
    Request* parent = flight.parent;
    const bool aborted = flight.aborted;
    flights_.give(&flight);
    const bool last = aborted && --aborting_ == 0;
    parent->done(*parent, aborted ? ECANCELED : error);
    if (!last) return;
    // One of them may abort again: what is left then goes on waiting.
    std::vector<Request*> resumed;
    resumed.swap(waiting_);
    for (Request* request : resumed) submit(*request);
  }

  json report() const {
    json said = state_.report();
    said["ptpl_capable"] = !file_.empty();
    return said;
  }

  Result<json> act(ReserveAction action, const json& request) {
    ReserveCall call;
    call.action = action;
    call.host = get_string(request, "host_key");
    if (!call.host.empty()) TRY(check_name("host key", call.host));
    TRY_ASSIGN(call.key, parse_reserve_key("key", get_string(request, "key", "0")));
    TRY_ASSIGN(call.new_key, parse_reserve_key("new key", get_string(request, "new_key", "0")));
    if (const std::string type = get_string(request, "type"); !type.empty()) {
      TRY_ASSIGN(call.type, reserve_type_from_name(type));
    }
    call.ptpl = get_bool(request, "ptpl");
    if (call.ptpl && file_.empty())
      return fail(Code::invalid,
                  "nothing persists through a power loss here: the layer has no file "
                  "(reserve:ptpl=FILE)");
    Reservations next = state_;
    TRY_ASSIGN(const std::vector<std::string> victims, next.apply(call));
    TRY(save(next));
    state_ = std::move(next);
    json answer = {{"reservation", report()}};
    if (action == ReserveAction::preempt_abort) answer["aborted"] = abort(victims);
    return answer;
  }

  // Before the answer: what was said to persist does.
  Result<> save(const Reservations& next) const {
    if (file_.empty() || (!next.ptpl() && !state_.ptpl())) return {};
    if (next.ptpl()) return write_file_atomic(file_, to_line(next.saved()) + "\n");
    if (unlink(file_.c_str()) < 0 && errno != ENOENT)
      return fail_errno("cannot remove " + file_, errno);
    return {};
  }

  size_t abort(const std::vector<std::string>& victims) {
    size_t count = 0;
    for (Flight* flight : in_flight_) {
      const auto known = std::find(victims.begin(), victims.end(), flight->parent->host);
      if (known == victims.end() || flight->aborted) continue;
      flight->aborted = true;
      ++count;
    }
    aborting_ += count;
    aborted_ += count;
    return count;
  }

  std::string file_;
  Reservations state_;
  Pool<Flight> flights_;
  std::vector<Flight*> in_flight_;
  std::vector<Request*> waiting_;  // until nothing is being aborted; as many as front ends let in
  size_t aborting_ = 0;
  uint64_t conflicts_ = 0;
  uint64_t aborted_ = 0;
};

Result<Reservations> load(const std::string& file) {
  if (file.empty() || access(file.c_str(), F_OK) != 0) return Reservations();
  TRY_ASSIGN(const std::string text, read_file(file, k_max_file));
  const auto saved = parse_json(text);
  auto state = saved ? Reservations::from_saved(*saved)
                     : Result<Reservations>(fail(Code::invalid, saved.error().message));
  if (state) return state;
  return fail(Code::invalid,
              fmt::format("layer 'reserve': ptpl={}: {}", file, state.error().message));
}

}  // namespace

std::span<const ParamSpec> reserve_params() {
  return k_reserve_params;
}

Result<std::unique_ptr<Disk>> make_reserve(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                           const Env&) {
  const auto given = spec.params.find("ptpl");
  const std::string file = given == spec.params.end() ? "" : given->second;
  if (given != spec.params.end() && file.empty())
    return fail(Code::usage, "layer 'reserve': ptpl= names no file");
  TRY_ASSIGN(Reservations state, load(file));
  return std::make_unique<Reserve>(std::move(lower), file, std::move(state));
}

}  // namespace pv::blk
