// SPDX-License-Identifier: MIT
// Durations by their order of magnitude: eight buckets for each power of two, so that a quantile is
// right to 12.5 %. Fixed size, allocates nothing, one thread.
#pragma once

#include <array>
#include <cstdint>

namespace pv::blk {

class Histogram {
 public:
  void add(uint64_t ns);
  uint64_t count() const { return count_; }
  uint64_t mean_ns() const { return count_ == 0 ? 0 : sum_ns_ / count_; }
  uint64_t max_ns() const { return max_ns_; }
  // The duration that `part` (0 to 1) of all are not longer than; 0 when there are none.
  uint64_t quantile_ns(double part) const;

 private:
  static constexpr unsigned k_bits = 3;
  static constexpr size_t k_buckets = (64 - k_bits + 1) << k_bits;
  static size_t bucket_of(uint64_t ns);
  static uint64_t last_of(size_t bucket);

  std::array<uint64_t, k_buckets> buckets_{};
  uint64_t count_ = 0;
  uint64_t sum_ns_ = 0;
  uint64_t max_ns_ = 0;
};

}  // namespace pv::blk
