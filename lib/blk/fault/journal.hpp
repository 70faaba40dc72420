// SPDX-License-Identifier: MIT
// The record of every decision that a rule made. Bounded: the oldest entries go first, and how many
// have gone is told.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "base/json_fwd.hpp"
#include "blk/disk.hpp"

namespace pv::blk {

struct JournalEntry {
  uint64_t number = 0;  // from 1, without gaps
  uint64_t t_ns = 0;    // since the layer was made
  std::string rule;
  const char* kind = "";
  Op op = Op::read;
  Front front = Front::host;
  uint32_t connection = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
  uint64_t delay_ns = 0;  // of a delay; an outcome has a phase and two statuses instead
  Phase phase = Phase::before;
  int requested = 0;
  int delivered = 0;
};

class Journal {
 public:
  static constexpr size_t k_capacity = 1 << 16;

  void add(JournalEntry entry);
  uint64_t last() const { return last_; }
  uint64_t dropped() const { return last_ - entries_.size(); }
  // At most `max` entries with a number above `since`, oldest first.
  json read(uint64_t since, size_t max) const;

 private:
  std::deque<JournalEntry> entries_;
  uint64_t last_ = 0;
};

}  // namespace pv::blk
