// SPDX-License-Identifier: MIT
// Which sectors read as nobody has promised: they were discarded where that leaves it open what is
// there, or a change of them failed on both sides. They are not compared until something is
// written. Bounded: a disk has at most k_max_chunks chunks, of 1 MiB or larger, and of k_max_bits
// of memory for those that are defined in part; beyond that a chunk counts as undefined as a whole,
// so something may go unseen, but nothing is reported that is right. Owned by one layer, on its
// thread.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

namespace pv::blk {

class UndefinedMap {
 public:
  static constexpr uint64_t k_sector = 512;
  static constexpr uint64_t k_max_chunks = 1 << 20;
  static constexpr uint64_t k_max_bits = 16 << 20;  // bytes

  explicit UndefinedMap(uint64_t size);

  bool empty() const { return undefined_chunks_ == 0; }
  // [begin, end) in whole sectors.
  void set(uint64_t begin, uint64_t end, bool undefined);
  bool get(uint64_t offset) const;
  uint64_t bytes() const;                      // that are undefined; looks at every chunk
  uint64_t coarse() const { return coarse_; }  // how often a chunk was taken as a whole
  // A copy for a disk of another size.
  UndefinedMap resized(uint64_t size) const;

 private:
  enum State : uint8_t { defined, whole, partial };
  using Bits = std::vector<uint64_t>;
  void set_chunk(uint64_t chunk, uint64_t begin, uint64_t end, bool undefined);
  void become(uint64_t chunk, State state);
  Bits* split(uint64_t chunk, bool was_undefined);

  uint64_t size_, chunk_;
  std::vector<uint8_t> states_;
  std::unordered_map<uint64_t, Bits> bits_;
  uint64_t undefined_chunks_ = 0;  // in whole or in part
  uint64_t coarse_ = 0;
};

}  // namespace pv::blk
