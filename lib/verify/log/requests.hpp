// SPDX-License-Identifier: MIT
// A write log as a sequence of requests: each with what became of it. Two orders of the same
// requests: as they were submitted, and as a disk with a volatile cache makes them last (which is
// that of dm-log-writes). What is held in memory is what is in flight or, for the second order, not
// yet flushed: some hundred bytes a request, never its data.
#pragma once

#include <deque>
#include <list>
#include <memory>
#include <optional>
#include <string>

#include "base/result.hpp"
#include "blk/record/reader.hpp"

namespace pv::verify {

struct Logged {
  enum Fate : uint8_t { pending, done, failed };  // pending: no completion is in the log
  blk::LogEntry entry;                            // of the submission
  uint64_t data_at = 0;                           // of a write, in the file
  std::string mark;
  Fate fate = pending;
  uint64_t done_ns = 0;
  uint64_t done_order = 0;  // the how many-th completion, from 1
  int error = 0;
};

class LogRequests {
 public:
  explicit LogRequests(blk::LogReader reader) : reader_(std::move(reader)) {}

  // The next one in the order of submission; nullopt at the end.
  Result<std::optional<Logged>> next();
  const blk::LogReader& reader() const { return reader_; }

 private:
  Result<bool> read_one();
  blk::LogReader reader_;
  std::deque<Logged> open_;  // numbers without gaps
  uint64_t completions_ = 0;
  bool ended_ = false;
};

// In the order of lasting: a write, zero or discard when a flush that was submitted after it had
// completed completes; the flush then; a write with FUA when it completes; a mark when it was set;
// at the end what was never flushed. Only what succeeded. An older write that a FUA write overlaps
// goes before it, and so does what that one overlaps.
class LastingRequests {
 public:
  explicit LastingRequests(blk::LogReader reader) : reader_(std::move(reader)) {}
  Result<std::optional<Logged>> next();
  const blk::LogReader& reader() const { return reader_; }
  uint64_t left_out() const { return left_out_; }  // failed, or at the end without a completion

 private:
  using Run = std::list<Logged>;
  struct Flush {
    Logged flush;
    Run covered;
  };
  void completed(const blk::LogEntry& done);
  void lasts(Run& run);
  void lasts_before(const blk::LogEntry& fua);
  void submitted(const blk::LogEntry& entry);

  blk::LogReader reader_;
  std::list<Logged> in_flight_;
  std::list<Flush> flushes_;
  Run unflushed_, ready_;
  uint64_t completions_ = 0, left_out_ = 0;
  bool ended_ = false;
};

}  // namespace pv::verify
