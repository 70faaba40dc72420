// SPDX-License-Identifier: MIT
#include "blk/histogram.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

namespace pv::blk {

size_t Histogram::bucket_of(uint64_t ns) {
  if (ns < 1U << k_bits) return ns;
  const auto magnitude = static_cast<unsigned>(std::bit_width(ns)) - 1 - k_bits;
  return (uint64_t{magnitude} << k_bits) + (ns >> magnitude);
}

uint64_t Histogram::last_of(size_t bucket) {
  if (bucket < 1U << k_bits) return bucket;
  const auto magnitude = static_cast<unsigned>((bucket >> k_bits) - 1);
  const uint64_t first = (1U << k_bits) + (bucket & ((1U << k_bits) - 1));
  return (first << magnitude) + ((uint64_t{1} << magnitude) - 1);
}

void Histogram::add(uint64_t ns) {
  ++buckets_[bucket_of(ns)];
  ++count_;
  sum_ns_ += ns;
  max_ns_ = std::max(max_ns_, ns);
}

uint64_t Histogram::quantile_ns(double part) const {
  if (count_ == 0) return 0;
  const auto wanted = static_cast<uint64_t>(std::ceil(part * static_cast<double>(count_)));
  uint64_t seen = 0;
  for (size_t i = 0; i < buckets_.size(); ++i) {
    seen += buckets_[i];
    if (seen >= std::max<uint64_t>(wanted, 1)) return std::min(last_of(i), max_ns_);
  }
  return max_ns_;
}

}  // namespace pv::blk
