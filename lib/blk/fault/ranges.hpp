// SPDX-License-Identifier: MIT
// A set of byte ranges that answers "does this request touch one?" in the time of two cache misses,
// also with a million bad sectors. Built once; a rewrite may take bytes out again.
#pragma once

#include <cstdint>
#include <vector>

namespace pv::blk {

struct Range {
  uint64_t offset;
  uint64_t length;
};

class RangeSet {
 public:
  RangeSet() = default;
  // Any order, overlapping or not; the set holds their union.
  explicit RangeSet(std::vector<Range> ranges);

  bool empty() const { return live_ == 0; }
  // How many separate ranges are left.
  size_t count() const { return live_; }
  bool touches(uint64_t offset, uint64_t length) const { return first(offset, length) != k_none; }
  // The first byte of [offset, offset + length) in the set, or k_none.
  uint64_t first(uint64_t offset, uint64_t length) const;
  void erase(uint64_t offset, uint64_t length);
  std::vector<Range> list() const;

  static constexpr uint64_t k_none = UINT64_MAX;

 private:
  struct Span {
    uint64_t begin, end;  // begin == end: it has been erased
  };
  size_t find(uint64_t offset) const;
  void index();

  std::vector<Span> spans_;  // sorted, apart from each other
  size_t live_ = 0;
  uint64_t base_ = 0;
  int shift_ = 0;
  std::vector<uint32_t> starts_;  // bucket -> the first span that ends behind the bucket's start
};

}  // namespace pv::blk
