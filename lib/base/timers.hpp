// SPDX-License-Identifier: MIT
// One-shot timers, as a layer sees them. The event loop implements it with a timerfd; ManualTimers
// implements it with a clock that a test moves, so that delays cost a test no time.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <utility>

#include "base/clock.hpp"

namespace pv {

using TimerId = uint64_t;  // 0 is never a valid timer

class Timers {
 public:
  virtual ~Timers() = default;
  // Runs `callback` once, `ns` from now, on the thread that owns this object.
  virtual TimerId after(uint64_t ns, std::function<void()> callback) = 0;
  // Forgets a timer; unknown or already fired ones are ignored.
  virtual void cancel(TimerId id) = 0;
};

// The queue behind both implementations: ordered by (deadline, id), so equal deadlines fire in the
// order in which they were set.
class TimerQueue {
 public:
  TimerId add(uint64_t deadline_ns, std::function<void()> callback);
  void cancel(TimerId id);
  // Earliest deadline, or UINT64_MAX when empty.
  uint64_t next_deadline() const;
  // Runs everything due at `now_ns`; callbacks may add and cancel.
  void run_due(uint64_t now_ns);
  bool empty() const { return queue_.empty(); }

 private:
  std::map<std::pair<uint64_t, TimerId>, std::function<void()>> queue_;
  std::map<TimerId, uint64_t> deadlines_;
  TimerId last_id_ = 0;
};

class ManualTimers final : public Timers {
 public:
  explicit ManualTimers(ManualClock& clock) : clock_(clock) {}
  TimerId after(uint64_t ns, std::function<void()> callback) override {
    return queue_.add(clock_.now_ns() + ns, std::move(callback));
  }
  void cancel(TimerId id) override { queue_.cancel(id); }
  void advance_ns(uint64_t ns) {
    clock_.advance_ns(ns);
    queue_.run_due(clock_.now_ns());
  }
  bool empty() const { return queue_.empty(); }

 private:
  ManualClock& clock_;
  TimerQueue queue_;
};

}  // namespace pv
