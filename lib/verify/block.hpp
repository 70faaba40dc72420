// SPDX-License-Identifier: MIT
// Blocks that say of themselves where they belong. Each sector of 512 bytes has in its first 48
// bytes, little-endian: "PVBLOCK1", its address on the disk, the generation, the seed, the size of
// the block, four bytes of zeroes, and the XXH3 of the whole sector with eight zeroes here. The
// rest follows from address, generation and seed, so that every byte of it can be checked.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "verify/classify.hpp"

namespace pv::verify {

struct BlockId {
  uint64_t generation = 1;
  uint64_t seed = 0;
  uint32_t size = 4096;  // bytes of a block, a power of two of at least k_unit
};

// Which blocks a filling has, and in which order it writes them.
struct Selection {
  uint64_t blocks = 0;  // of the disk
  uint64_t seed = 0;
  uint64_t threshold = UINT64_MAX;  // a fraction of 2^64; the maximum means all
  bool has(uint64_t block) const;
  // Where the n-th block of a random order is: every one of `blocks` comes once.
  uint64_t shuffled(uint64_t n) const;
};

// The block at `offset`, exactly `id.size` bytes.
void make_block(const BlockId& id, uint64_t offset, char* out);

// What a sector says of itself, when its checksum is right.
struct SectorLabel {
  uint64_t address = 0;
  BlockId id;
};
std::optional<SectorLabel> read_label(std::string_view sector);

struct BlockReport {
  Verdict verdict;
  std::optional<uint64_t> generation;  // of what is there instead; 0 for zeroes
  std::optional<uint64_t> from;        // misdirected: where it belongs
  std::optional<uint64_t> seed;        // other: of another filling
  std::vector<uint32_t> sectors;       // the first ones that are not as expected, at most 8
};

// `actual` is the block that was read at `offset`.
BlockReport examine(const BlockId& id, uint64_t offset, std::string_view actual);

}  // namespace pv::verify
