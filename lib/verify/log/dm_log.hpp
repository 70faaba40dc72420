// SPDX-License-Identifier: MIT
// Write logs become logs of dm-log-writes and the other way round.
#pragma once

#include <cstdint>
#include <string>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "blk/record/reader.hpp"
#include "verify/log/dm_format.hpp"

namespace pv::verify {

// Reads such a log front to back; what follows the first entry that is wrong is not given out.
class DmReader {
 public:
  // Code::invalid for a file that is none.
  static Result<DmReader> open(const std::string& path);
  static Result<DmReader> open(Fd fd, const std::string& name);

  const DmHead& head() const { return head_; }
  // False at the end of what can be used.
  Result<bool> next(DmEntry& entry);
  const std::string& mark() const { return mark_; }
  uint64_t data_at() const { return data_at_; }
  Result<> read(uint64_t from, char* to, size_t count) const;
  uint64_t entries() const { return entries_; }  // so far
  bool complete() const { return entries_ == head_.entries; }

 private:
  DmReader(Fd fd, std::string name) : fd_(std::move(fd)), name_(std::move(name)) {}
  Fd fd_;
  std::string name_;
  DmHead head_;
  std::string sector_, mark_;
  uint64_t at_ = 0, data_at_ = 0, entries_ = 0, size_ = 0;
};

// A file that was not there before; Code::duplicate_name when it was.
Result<Fd> new_file(const std::string& path);

struct Converted {
  uint64_t entries = 0, data_bytes = 0, marks = 0;
  uint64_t left_out = 0;  // export: requests that failed or never completed
  bool whole = true;      // false: the log that was read is cut short
  blk::LogEnd end;        // export: of that log
};

// In the order of lasting (verify/log/requests.hpp), which is that of the kernel. `out` is new.
Result<Converted> export_dm_log(const std::string& log, const std::string& out);

// `size` of the disk; 0: not known. `out` is new.
Result<Converted> import_dm_log(const std::string& log, const std::string& out, uint64_t size);

}  // namespace pv::verify
