// SPDX-License-Identifier: MIT
// Carries the requests of a write log out again, on any disk: all of them, or up to a number or a
// mark. What had failed, and what never completed, is left out. On the thread of the loop.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/json_fwd.hpp"
#include "base/loop.hpp"
#include "blk/disk.hpp"
#include "blk/record/reader.hpp"

namespace pv::verify {

// Where a replay begins and ends: the number of a request, or the name of a mark.
struct LogPoint {
  uint64_t n = 0;
  std::string mark;

  bool given() const { return n != 0 || !mark.empty(); }
  static LogPoint parse(const std::string& text);  // digits are a number
};

struct ReplayPlan {
  LogPoint from;       // what comes after it; the disk is as a replay up to there has left it
  LogPoint to;         // up to and with it
  bool force = false;  // whatever the disk was
};

struct Replayed {
  uint64_t first = 0, last = 0;  // numbers of the requests that this was about
  uint64_t requests = 0, written_bytes = 0, zeroed_bytes = 0;
  uint64_t failed = 0, pending = 0, ignored = 0;  // left out
  uint64_t gaps = 0;  // sessions among them before which the disk may have changed unseen
  blk::LogEnd end;    // of the whole log, wherever the replay has ended
};

// Code::incompatible when the disk is none that the log can be of; Code::invalid when a point is
// not in the log.
Result<Replayed> replay(const std::string& log, blk::Disk& disk, Loop& loop,
                        const ReplayPlan& plan);

}  // namespace pv::verify
