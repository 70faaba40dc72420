// SPDX-License-Identifier: MIT
// What readers of files share: whether a file is still the one that was opened, and reads that are
// not cut short by signals.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.hpp"

namespace pv::verify {

// A file's length and the time of its last change.
class FileStamp {
 public:
  static Result<FileStamp> of(int fd, const std::string& name);
  // Code::aborted when either is another now. Devices never change.
  Result<> compare(int fd, const std::string& name) const;
  bool regular() const { return regular_; }
  uint64_t file_size() const { return size_; }

 private:
  bool regular_ = false;
  uint64_t size_ = 0;
  uint64_t mtime_ns_ = 0;
};

// Fewer bytes than asked for only at the end of the file.
Result<size_t> read_at(int fd, uint64_t offset, char* data, size_t length, const std::string& name);

}  // namespace pv::verify
