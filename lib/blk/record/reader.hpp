// SPDX-License-Identifier: MIT
// Reads a write log front to back, also one that is still being written, was cut off anywhere, or
// is damaged: everything before the first entry that is wrong is given out, nothing after it.
#pragma once

#include <optional>
#include <string>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "blk/record/format.hpp"

namespace pv::blk {

// How far a log goes. It is whole when nothing of it is known to be missing: one whose recorder was
// killed may be whole and still not tell the last that happened.
struct LogEnd {
  LogHead::State state = LogHead::recording;
  uint32_t error = 0;         // why it is broken; EILSEQ: closed, and damaged since
  uint64_t used_bytes = 0;    // up to the last good entry
  uint64_t unused_bytes = 0;  // what is behind it
  uint64_t gaps = 0;          // sessions that do not go on where the one before ended
  bool whole = true;
};

class LogReader {
 public:
  // Code::invalid for a file that is no log; `name` is for messages.
  static Result<LogReader> open(const std::string& path);
  static Result<LogReader> open(Fd fd, const std::string& name);

  const LogHead& head() const { return head_; }
  // The next entry, or nullopt at the end of what can be used. Its data stays until the next call.
  Result<std::optional<LogEntry>> next();
  const std::string& data() const { return data_; }
  uint64_t data_at() const { return data_at_; }  // where it stands in the file

  // The bytes [from, from + count) of the file, for data that next() has seen.
  Result<> read(uint64_t from, char* to, size_t count) const;

  uint64_t used() const { return at_; }    // bytes of the file that were good so far
  uint64_t last() const { return last_; }  // number of the last request so far
  Result<LogEnd> end() const;              // once next() has ended

 private:
  LogReader(Fd fd, std::string name) : fd_(std::move(fd)), name_(std::move(name)) {}
  Result<size_t> read_some(uint64_t from, char* to, size_t count) const;
  bool follows(const LogEntry& entry) const;
  Fd fd_;
  std::string name_;
  LogHead head_;
  uint64_t at_ = k_log_head, data_at_ = 0, last_ = 0, gaps_ = 0;
  std::string data_;
};

}  // namespace pv::blk
