// SPDX-License-Identifier: MIT
// Copies what a disk holds into a sparse file, piece by piece on the loop, so that a server goes on
// listening meanwhile. Nobody may change the disk until it is done.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "base/loop.hpp"
#include "blk/disk.hpp"

namespace pv::serve {

class SnapCopy : public std::enable_shared_from_this<SnapCopy> {
 public:
  using Done = std::function<void(Result<>)>;

  // A file by its descriptor: by reflink where the file system can, else extent by extent.
  static std::shared_ptr<SnapCopy> of_file(Loop& loop, int from, int to, Done done);
  // Any disk, with reads below every fault. Pages of zeroes become holes.
  static std::shared_ptr<SnapCopy> of_disk(Loop& loop, blk::Disk& from, int to, Done done);

  // May run to its end at once.
  void start();
  // It goes no further, and `done` is not called. What is in flight ends by itself.
  void cancel() { done_ = nullptr; }

 private:
  SnapCopy(Loop& loop, int to, Done done) : loop_(loop), to_(to), done_(std::move(done)) {}
  void go_on();
  void rest();
  Result<bool> file_step();
  Result<bool> disk_step();
  bool ask_map();
  bool read_piece();
  bool submit();
  Result<> write_piece();
  void finish(Result<> result);

  Loop& loop_;
  int from_ = -1;
  blk::Disk* disk_ = nullptr;
  int to_;
  Done done_;
  uint64_t size_ = 0, at_ = 0;
  uint64_t moved_ = 0;  // since the loop had its turn
  std::vector<blk::Extent> extents_;
  size_t extent_ = 0;
  uint64_t extent_at_ = 0;
  blk::Request request_;
  std::vector<char> piece_;
  iovec segment_{};
  bool submitting_ = false, answered_ = false, reading_ = false;
  int error_ = 0;
  std::shared_ptr<SnapCopy> self_;  // while a request is in flight or a turn of the loop is due
};

}  // namespace pv::serve
