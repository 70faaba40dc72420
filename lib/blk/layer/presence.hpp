// SPDX-License-Identifier: MIT
// Which sectors of a disk are somewhere: one bit each, in chunks that are made when the first bit
// of one is set. Owned by its layer, on the loop's thread.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

namespace pv::blk {

class Presence {
 public:
  explicit Presence(uint64_t size) { reset(size); }

  void reset(uint64_t size) {
    chunks_.clear();
    chunks_.resize((size + k_chunk - 1) / k_chunk);
    pages_ = 0;
  }

  // Whether every sector of [from, end) is there.
  bool all(uint64_t from, uint64_t end) const {
    bool there = true;
    each(from, end, [&](const Chunk* chunk, size_t page, uint8_t mask) {
      there = there && chunk != nullptr && ((*chunk)[page] & mask) == mask;
    });
    return there;
  }

  void set(uint64_t from, uint64_t end) {
    for (uint64_t i = from / k_chunk; i <= (end - 1) / k_chunk; ++i)
      if (!chunks_[i]) chunks_[i] = std::make_unique<Chunk>();
    each(from, end, [&](Chunk* chunk, size_t page, uint8_t mask) {
      pages_ += (*chunk)[page] == 0 ? 1 : 0;
      (*chunk)[page] = static_cast<uint8_t>((*chunk)[page] | mask);
    });
  }

  void clear(uint64_t from, uint64_t end) {
    each(from, end, [&](Chunk* chunk, size_t page, uint8_t mask) {
      if (chunk == nullptr || (*chunk)[page] == 0) return;
      (*chunk)[page] = static_cast<uint8_t>((*chunk)[page] & ~mask);
      pages_ -= (*chunk)[page] == 0 ? 1 : 0;
    });
  }

  // In whole pages, which is what they take.
  uint64_t bytes() const { return pages_ * k_page; }

 private:
  static constexpr uint64_t k_sector = 512, k_page = 8 * k_sector, k_chunk = 16 << 20;
  using Chunk = std::array<uint8_t, k_chunk / k_page>;

  // visit(chunk or null, index of the page's byte, bits of the sectors meant)
  template <class Visit>
  void each(uint64_t from, uint64_t end, Visit&& visit) const {
    while (from < end) {
      const uint64_t stop = std::min(end, (from / k_page + 1) * k_page);
      const uint64_t first = from % k_page / k_sector, count = (stop - from) / k_sector;
      visit(chunks_[from / k_chunk].get(), from % k_chunk / k_page,
            static_cast<uint8_t>(((1U << count) - 1) << first));
      from = stop;
    }
  }

  std::vector<std::unique_ptr<Chunk>> chunks_;
  uint64_t pages_ = 0;
};

}  // namespace pv::blk
