// SPDX-License-Identifier: MIT
#include "base/clock.hpp"

#include <cerrno>
#include <ctime>

#include <climits>

namespace pv {
namespace {

uint64_t read_clock(clockid_t id) {
  timespec ts{};
  clock_gettime(id, &ts);
  return static_cast<uint64_t>(ts.tv_sec) * k_ns_per_s + static_cast<uint64_t>(ts.tv_nsec);
}

class SystemClock final : public Clock {
 public:
  uint64_t now_ns() const override { return read_clock(CLOCK_MONOTONIC); }
  uint64_t wall_ns() const override { return read_clock(CLOCK_REALTIME); }
};

}  // namespace

Clock& system_clock() {
  static SystemClock clock;
  return clock;
}

Deadline Deadline::in_ns(uint64_t ns) {
  const uint64_t now = system_clock().now_ns();
  return Deadline(now > UINT64_MAX - ns ? UINT64_MAX : now + ns);
}

uint64_t Deadline::left_ns() const {
  const uint64_t now = system_clock().now_ns();
  return at_ns_ > now ? at_ns_ - now : 0;
}

int Deadline::left_ms() const {
  const uint64_t ms = (left_ns() + k_ns_per_ms - 1) / k_ns_per_ms;
  return ms > INT_MAX ? INT_MAX : static_cast<int>(ms);
}

void sleep_ns(uint64_t ns) {
  timespec ts{static_cast<time_t>(ns / k_ns_per_s), static_cast<long>(ns % k_ns_per_s)};
  while (clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &ts) == EINTR) {
  }
}

}  // namespace pv
