// SPDX-License-Identifier: MIT
// Writing self-describing blocks to a disk, and finding those that have not stayed what they were.
#pragma once

#include <array>
#include <functional>

#include "verify/block.hpp"
#include "verify/image.hpp"

namespace pv::verify {

struct FillOptions {
  BlockId id;
  double fraction = 1;
  bool random = false;  // each block by itself, in an order that follows from the seed
  bool resume = false;  // what is there already is not written
  uint64_t rate = 0;    // bytes a second; 0: as fast as it goes
  unsigned jobs = 4;
  Deadline deadline = Deadline::in_ns(UINT64_MAX);
  std::function<void(uint64_t done)> progress = [](uint64_t) {};  // bytes of size(); called often
};

// Code::usage for a block size, a generation or a fraction that cannot be.
Result<> check_options(const FillOptions& options);

struct FillTotals {
  uint64_t blocks = 0;  // of the filling
  uint64_t written = 0;
  uint64_t kept = 0;  // were there already
};
// Flushes at the end.
Result<FillTotals> fill(Image& image, const FillOptions& options);

struct CheckTotals {
  uint64_t blocks = 0;
  uint64_t bad = 0;
  std::array<uint64_t, 7> by_damage{};  // index: Damage
};
using BadBlock = std::function<Result<>(uint64_t offset, const BlockReport& report)>;
// `bad` is called in the order of the addresses.
Result<CheckTotals> check(Image& image, const FillOptions& options, const BadBlock& bad);

}  // namespace pv::verify
