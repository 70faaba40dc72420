// SPDX-License-Identifier: MIT
// What a lost connection may have lost: writes that were acknowledged and not flushed. Like the
// kernel's errseq_t, it is told once to every connection that had written, and in any case to the
// first that flushes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace pv::blk {

class NbdLoss {
 public:
  // A change was acknowledged that is not on stable storage.
  void changed(uint32_t connection) {
    ++changes_;
    if (std::find(writers_.begin(), writers_.end(), connection) == writers_.end())
      writers_.push_back(connection);
  }
  // A flush covers the changes that were acknowledged before it was sent.
  uint64_t mark() const { return changes_; }
  void flushed(uint64_t mark) {
    flushed_ = std::max(flushed_, mark);
    if (flushed_ == changes_) writers_.clear();
  }
  void connection_lost() {
    if (flushed_ == changes_) return;
    ++times_;
    untold_ = true;
    for (const uint32_t writer : writers_)
      if (std::find(owed_.begin(), owed_.end(), writer) == owed_.end()) owed_.push_back(writer);
    writers_.clear();
    flushed_ = changes_;
  }
  // Whether a flush of this connection has to fail; it is told now.
  bool tell(uint32_t connection) {
    const auto owed = std::find(owed_.begin(), owed_.end(), connection);
    const bool told = untold_ || owed != owed_.end();
    if (owed != owed_.end()) owed_.erase(owed);
    untold_ = false;
    return told;
  }
  uint64_t times() const { return times_; }

 private:
  uint64_t changes_ = 0;
  uint64_t flushed_ = 0;
  uint64_t times_ = 0;
  bool untold_ = false;
  std::vector<uint32_t> writers_, owed_;  // as many as there are clients
};

}  // namespace pv::blk
