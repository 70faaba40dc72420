// SPDX-License-Identifier: MIT
#include "lan/wire.hpp"

#include <algorithm>

#include "base/rng.hpp"

namespace pv::lan {
namespace {

// Evenly spread over [0, 1), from the 53 bits that a double holds.
double fraction(uint64_t random) {
  return static_cast<double>(random >> 11) * 0x1p-53;
}

}  // namespace

void Wire::set(const LinkSettings& settings) {
  if (settings.seed != settings_.seed) number_ = 0;
  settings_ = settings;
  if (settings_.up) return;
  dropped_.link_down += queue_.size();
  queue_.clear();
  queued_bytes_ = 0;
  timers_.cancel(timer_);
  timer_ = 0;
}

void Wire::send(std::string_view frame) {
  if (!settings_.up) {
    ++dropped_.link_down;
    return;
  }
  const uint64_t random = mix(mix(settings_.seed, salt_), number_++);
  if (settings_.loss > 0 && fraction(random) < settings_.loss) {
    ++dropped_.loss;
    return;
  }
  uint64_t delay_ns = settings_.latency_ns;
  if (settings_.jitter_ns > 0) delay_ns += mix(random) % (settings_.jitter_ns + 1);
  if (delay_ns == 0 && queue_.empty()) return deliver_(frame);
  if (queue_.size() >= k_max_frames || queued_bytes_ + frame.size() > k_max_bytes) {
    ++dropped_.queue_full;
    return;
  }
  // A cable does not let one frame overtake another.
  const uint64_t last_ns = queue_.empty() ? 0 : queue_.back().due_ns;
  queue_.push_back({std::max(clock_.now_ns() + delay_ns, last_ns), std::string(frame)});
  queued_bytes_ += frame.size();
  arm();
}

void Wire::arm() {
  if (timer_ != 0 || queue_.empty()) return;
  const uint64_t now_ns = clock_.now_ns();
  const uint64_t due_ns = queue_.front().due_ns;
  timer_ = timers_.after(due_ns > now_ns ? due_ns - now_ns : 0, [this] {
    timer_ = 0;
    deliver_due();
    arm();
  });
}

void Wire::deliver_due() {
  while (!queue_.empty() && queue_.front().due_ns <= clock_.now_ns()) {
    const std::string frame = std::move(queue_.front().frame);
    queue_.pop_front();
    queued_bytes_ -= frame.size();
    deliver_(frame);
  }
}

}  // namespace pv::lan
