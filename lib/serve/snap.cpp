// SPDX-License-Identifier: MIT
#include "serve/snap.hpp"

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"

namespace pv::serve {
namespace {

constexpr uint64_t k_poll_ns = 200'000;  // while requests in flight come to their end

}  // namespace

// What a rule holds would be neither done nor undone in a snapshot, and would keep a VM from being
// stopped.
Result<> Snap::none_held() const {
  const auto answer = parts_.disk.control({{"op", "fault.held"}});
  const json* held = answer ? find(*answer, "held") : nullptr;
  if (held == nullptr || held->empty()) return {};
  return fail(Error(Code::wrong_state,
                    fmt::format("fault rules hold {} request{} of the disk: release them first "
                                "(pv-fault release)",
                                held->size(), held->size() == 1 ? "" : "s"))
                  .with("requests", *held));
}

Result<json> Snap::prepare(ConnectionId id) {
  if (busy()) return fail(Code::wrong_state, "another snapshot of the disk is under way");
  TRY(none_held());
  state_ = State::window;
  holder_ = id;
  parts_.gate.hold();
  return flushes();
}

Result<json> Snap::flushes() const {
  return json{{"flushes", parts_.gate.flushes()}, {"pending", parts_.gate.pending()}};
}

void Snap::save(ConnectionId id, const json& request, Reply reply) {
  if (state_ != State::window || holder_ != id)
    return reply(fail(Code::wrong_state, "snap.save: the disk was not prepared for it before"));
  const std::string pending = get_string(request, "pending_flush", "keep");
  if (pending != "keep" && pending != "drop")
    return reply(fail(Code::usage, "snap.save: pending_flush is neither keep nor drop"));
  final_ = get_bool(request, "final");
  auto target = SnapTarget::make(get_string(request, "dir"), parts_.spec, final_, parts_.loop);
  if (!target) return reply(fail(target.error()));
  target_ = std::move(*target);
  kept_ = pending == "keep" && parts_.gate.pending();
  reply_ = std::move(reply);
  deadline_ns_ = deadline_ns_of(request);
  state_ = State::saving;
  parts_.front.pause();
  parts_.ops.pause();
  if (kept_)
    parts_.gate.carry_out();
  else
    parts_.gate.forget();
  drain(++save_);
}

bool Snap::idle() const {
  if (parts_.counters.in_flight() != 0 || parts_.ops.in_flight() != 0 || parts_.gate.busy())
    return false;
  const auto answer = parts_.disk.control({{"op", "state.busy"}});
  return !answer || get_u64(*answer, "busy") == 0;
}

void Snap::drain(uint64_t save) {
  if (state_ != State::saving || save != save_) return;
  if (!idle()) {
    if (auto free = none_held(); !free) return written(free);
    if (system_clock().now_ns() >= deadline_ns_)
      return written(fail(Code::timeout, fmt::format("{} requests in flight do not end in time",
                                                     parts_.counters.in_flight())));
    parts_.loop.after(k_poll_ns, [this, save] { drain(save); });
    return;
  }
  hold_layers(true);
  if (auto good = write(); !good) return written(good);
  target_->copy([this](const Result<>& result) { written(result); });
}

// What layers would do by themselves, such as writes that land late, waits.
void Snap::hold_layers(bool on) {
  static_cast<void>(parts_.disk.control({{"op", "state.hold"}, {"on", on}}));
}

Result<> Snap::write() {
  TRY(parts_.disk.save_state(*target_));
  return target_->write_state();
}

void Snap::written(const Result<>& result) {
  const Reply reply = *std::exchange(reply_, std::nullopt);
  Result<json> answer = result ? manifest() : fail(result.error());
  if (answer && target_->shares()) {
    state_ = State::sealed;
    return reply(std::move(answer));
  }
  if (!answer) static_cast<void>(target_->part());
  if (!answer) state_ = State::window;
  // The copy that has just ended is still on the stack.
  parts_.loop.post([old = std::shared_ptr<SnapTarget>(std::move(target_))] {});
  if (answer && final_)
    state_ = State::sealed;
  else
    go_on();
  reply(std::move(answer));
}

Result<json> Snap::manifest() const {
  TRY_ASSIGN(const json saved, target_->describe());
  json all = parts_.describe();
  all.update(saved);
  all["pending_flush"] = kept_ ? json{{"errno", parts_.gate.last_error() == 0
                                                    ? json()
                                                    : json(errno_name(parts_.gate.last_error()))}}
                               : json();
  return all;
}

// As it was: after a failed save the window stays open, after one that went well it is over.
void Snap::go_on() {
  hold_layers(false);
  if (state_ != State::window) {
    state_ = State::off;
    parts_.gate.let_go();
  }
  for (const auto& what : std::exchange(later_, {})) what();
  parts_.ops.resume();
  parts_.front.resume();
}

void Snap::ended(ConnectionId id) {
  if (!busy() || holder_ != id) return;
  const State was = std::exchange(state_, State::off);
  if (was == State::sealed && target_) static_cast<void>(target_->part());
  if (was == State::window) return parts_.gate.let_go();
  reply_.reset();
  target_.reset();
  go_on();
}

}  // namespace pv::serve
