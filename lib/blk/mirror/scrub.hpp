// SPDX-License-Identifier: MIT
// Reads a disk from its beginning to its end and from the beginning again while nobody else asks
// for anything, at most so many bytes a second; the disk compares what is read. Holes are skipped.
// Owned by the layer that it scrubs, on its thread.
#pragma once

#include <memory>
#include <vector>

#include "blk/disk.hpp"

namespace pv::blk {

class Scrub {
 public:
  // Without a rate it does nothing.
  Scrub(Disk& disk, const Env& env, uint64_t bytes_per_s);
  ~Scrub();
  Scrub(const Scrub&) = delete;
  Scrub& operator=(const Scrub&) = delete;

  // Somebody else has asked for something.
  void busy() { quiet_ = false; }
  bool is_mine(const Request& request) const { return &request == &request_; }
  json shown() const;
  // Damage was met at `offset`, `what` being a hash of it; false when that was so before and
  // nothing was changed there since. A table of fixed size: what it has no room for is news again.
  bool is_news(uint64_t offset, uint64_t what);
  void forget(uint64_t begin, uint64_t end);

 private:
  void tick();
  void step();
  void done(int error);

  Disk& disk_;
  Env env_;
  uint64_t rate_, allowed_ = 0;  // bytes a second; bytes that may be read in this tick
  bool quiet_ = true;
  bool running_ = false;
  TimerId timer_ = 0;
  Request request_;
  std::vector<Extent> extents_;
  std::vector<uint64_t> met_;  // by sector; empty until there is one
  std::unique_ptr<char[]> buffer_;
  iovec piece_{};
  uint64_t position_ = 0, passes_ = 0, bytes_ = 0;
};

}  // namespace pv::blk
