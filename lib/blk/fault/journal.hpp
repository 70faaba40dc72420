// SPDX-License-Identifier: MIT
// The record of every decision that a rule made, one line each (line_journal.hpp).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "blk/disk.hpp"
#include "blk/line_journal.hpp"

namespace pv::blk {

struct JournalEntry {
  uint64_t t_ns = 0;  // since the layer was made
  std::string_view rule;
  const char* kind = "";
  uint64_t match = 0;  // number of the match, from 1
  Op op = Op::read;
  bool connects = false;  // not a request: a client that has come
  Front front = Front::host;
  uint32_t connection = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
  bool waits = false;  // a delay; an outcome has a phase and two statuses instead
  uint64_t delay_ns = 0;
  Phase phase = Phase::before;
  int requested = 0;
  int delivered = 0;
  WireFault::Kind wire = WireFault::none;  // what became of the answer instead
  std::string_view note;                   // further members
};

class Journal : public LineJournal {
 public:
  // Files in `dir` that go with it; "": in memory.
  explicit Journal(std::string dir, uint64_t bytes = k_default_bytes)
      : LineJournal(std::move(dir), "faults", bytes) {}

  // The number of the event, from 1 without gaps.
  uint64_t add(const JournalEntry& entry);
};

}  // namespace pv::blk
