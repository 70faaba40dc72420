// SPDX-License-Identifier: MIT
// Whole files, atomically replaced files, and lock files with a deadline.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <sys/types.h>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "base/result.hpp"

namespace pv {

// Reads a file; Code::invalid when it is larger than `max_bytes`.
Result<std::string> read_file(const std::string& path, size_t max_bytes);
// Reads a descriptor to its end, same bound; Code::timeout when the end does not come in time.
Result<std::string> read_all(int fd, size_t max_bytes, std::string_view name,
                             const Deadline& deadline = Deadline::in_ns(UINT64_MAX));
// The last `max_bytes` of a file; empty when it cannot be read.
std::string tail_of_file(const std::string& path, size_t max_bytes);

// Writes all of it, through short writes and signals.
Result<> write_all(int fd, std::string_view data);
// Replaces `path` so that a reader sees the old or the new content, never half of it.
Result<> write_file_atomic(const std::string& path, std::string_view data, int mode = 0600);

Result<> make_dir(const std::string& path, int mode = 0700);  // an existing directory is fine
Result<> make_dirs(const std::string& path, int mode = 0700);
void remove_tree(const std::string& path);           // never follows symlinks
std::string absolute_path(const std::string& path);  // lexical, no symlinks resolved

// Copies [begin, end), by the kernel where it can; less when the source ends before.
Result<> copy_range(int from, int to, off_t begin, off_t end);

// Copies the data of a file, holes stay holes, by reflink where the file system can.
Result<> copy_sparse(int from, int to);

// Held while it lives. The file stays.
class LockFile {
 public:
  // Waits until `deadline`; Code::timeout names `what`.
  static Result<LockFile> acquire(const std::string& path, const Deadline& deadline,
                                  std::string_view what);

  // It stays locked until every copy of this is closed, also those of other processes.
  int fd() const { return fd_.get(); }

 private:
  explicit LockFile(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

}  // namespace pv
