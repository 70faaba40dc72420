// SPDX-License-Identifier: MIT
// Which of the sectors that a volatile cache holds a power cut leaves alive. A disk that loses its
// power may have written any of them, so each choice is one that a real disk could have made.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/json_fwd.hpp"
#include "base/result.hpp"
#include "blk/disk.hpp"

namespace pv::blk {

struct Survivors {
  enum Kind : uint8_t { none, all, random, listed };
  Kind kind = none;
  uint64_t seed = 0;
  uint64_t atomic = 512;                            // random: what survives whole or not at all
  std::vector<std::pair<uint64_t, uint64_t>> keep;  // listed: [begin, end), in order, apart

  // A pure function of the choice and the offset, so that a cut can be had again.
  bool keeps(uint64_t offset) const;
};

// From "survivors" (none, all, random, listed), "seed" (a text, for random), "atomic_bytes" and
// "keep" ([[OFFSET,LENGTH],...]: whole sectors, within the disk).
Result<Survivors> survivors_from(const json& request, const Geometry& geometry);

}  // namespace pv::blk
