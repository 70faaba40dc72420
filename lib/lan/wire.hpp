// SPDX-License-Identifier: MIT
// One direction of a link: frames go in, and come out later, in order, or not at all. Which frames
// are lost, and how long each one takes, depends on the seed and on the frame's number only, so
// that a run can be repeated. Owned by the switch, on its thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <string_view>

#include "base/clock.hpp"
#include "base/timers.hpp"

namespace pv::lan {

struct LinkSettings {
  bool up = true;
  uint64_t latency_ns = 0;
  uint64_t jitter_ns = 0;  // at most this much more, evenly spread
  double loss = 0;         // 0 … 1
  uint64_t seed = 0;
};

// Why frames went no further.
struct Dropped {
  uint64_t link_down = 0;
  uint64_t loss = 0;
  uint64_t queue_full = 0;  // more in flight than a link holds
};

class Wire {
 public:
  using Deliver = std::function<void(std::string_view frame)>;

  // What one direction holds at most; at 64 bytes a frame that is 10 ms of a gigabit link.
  static constexpr size_t k_max_frames = 16384;
  static constexpr size_t k_max_bytes = 8 << 20;

  // `salt` tells the two directions of a link apart, which share a seed.
  Wire(const Clock& clock, Timers& timers, uint64_t salt, Deliver deliver)
      : clock_(clock), timers_(timers), salt_(salt), deliver_(std::move(deliver)) {}
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;
  ~Wire() { timers_.cancel(timer_); }

  // Frames in flight are lost when the link goes down. A new seed starts the numbering anew.
  void set(const LinkSettings& settings);
  void send(std::string_view frame);
  const Dropped& dropped() const { return dropped_; }

 private:
  struct InFlight {
    uint64_t due_ns;
    std::string frame;
  };
  void arm();
  void deliver_due();

  const Clock& clock_;
  Timers& timers_;
  const uint64_t salt_;
  const Deliver deliver_;
  LinkSettings settings_;
  std::deque<InFlight> queue_;
  size_t queued_bytes_ = 0;
  uint64_t number_ = 0;  // of the next frame
  TimerId timer_ = 0;
  Dropped dropped_;
};

}  // namespace pv::lan
