// SPDX-License-Identifier: MIT
// Two images side by side: every range in which they differ, in the order of their addresses.
#pragma once

#include <array>
#include <functional>

#include "verify/image.hpp"

namespace pv::verify {

struct Difference {
  uint64_t offset = 0;
  uint64_t length = 0;
  uint64_t differing = 0;  // bytes
  bool a_zero = true;      // the bytes that differ are all zero there
  bool b_zero = true;
};

struct Totals {
  uint64_t size = 0;  // of the larger one
  uint64_t ranges = 0;
  uint64_t differing = 0;  // bytes
  uint64_t first = 0;      // where the first one differs
  uint64_t compared = 0;   // bytes that were read on one side or both
};

// Puts differences that have less than `merge` equal bytes between them together, and hands on
// those that are complete.
class Merger {
 public:
  using Found = std::function<Result<>(const Difference&)>;
  Merger(uint64_t merge, Found found) : merge_(merge), found_(std::move(found)) {}
  Result<> add(const Difference& difference);
  Result<> finish();

 private:
  uint64_t merge_;
  Found found_;
  Difference open_;
};

// Appends what differs between two stretches of the same length that begin at `offset`.
void find_differences(uint64_t offset, const char* a, const char* b, size_t length, uint64_t merge,
                      std::vector<Difference>& out);

// What is in a cell of a map of the disk.
struct Cell {
  uint64_t compared = 0;  // bytes
  uint64_t differing = 0;
};

struct CompareOptions {
  uint64_t merge = 512;
  unsigned jobs = 1;
  Deadline deadline = Deadline::in_ns(UINT64_MAX);
  std::vector<Cell>* map = nullptr;  // one for each part of the disk, of the same size each
  std::function<void(uint64_t at)> progress = [](uint64_t) {};  // called often
};

// The end of the larger image is compared with zeroes. Where both are known to be zero nothing is
// read.
Result<Totals> compare(Image& a, Image& b, const CompareOptions& options,
                       const Merger::Found& found);

}  // namespace pv::verify
