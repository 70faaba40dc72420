// SPDX-License-Identifier: MIT
// Time comes in through this interface and nowhere else, so that a test can own it. Monotonic
// nanoseconds for everything that is measured or waited for; wall time only for what people read.
#pragma once

#include <cstdint>

namespace pv {

constexpr uint64_t k_ns_per_ms = 1'000'000;
constexpr uint64_t k_ns_per_s = 1'000'000'000;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual uint64_t now_ns() const = 0;   // CLOCK_MONOTONIC
  virtual uint64_t wall_ns() const = 0;  // CLOCK_REALTIME
};

// The machine's clocks; one shared, stateless instance.
Clock& system_clock();

// A clock that moves only when told to.
class ManualClock final : public Clock {
 public:
  uint64_t now_ns() const override { return now_ns_; }
  uint64_t wall_ns() const override { return now_ns_; }
  void advance_ns(uint64_t ns) { now_ns_ += ns; }

 private:
  uint64_t now_ns_ = 1;
};

// A point in time by which something must have happened.
class Deadline {
 public:
  static Deadline in_ns(uint64_t ns);
  static Deadline in_ms(uint64_t ms) { return in_ns(ms * k_ns_per_ms); }
  bool passed() const { return left_ns() == 0; }
  uint64_t left_ns() const;
  int left_ms() const;  // for poll(2): rounded up, 0 when passed, at most INT_MAX

 private:
  explicit Deadline(uint64_t at) : at_ns_(at) {}
  uint64_t at_ns_;
};

// Sleeps for `ns`, through signals.
void sleep_ns(uint64_t ns);

}  // namespace pv
