// SPDX-License-Identifier: MIT
// If this fails, a rule takes a good sector for a bad one, or the other way round.
#include <algorithm>
#include <utility>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "blk/fault/ranges.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

namespace {

// One bit a byte.
struct RangesModel {
  std::vector<bool> bytes;
  explicit RangesModel(uint64_t size) : bytes(size, false) {}
  void set(uint64_t offset, uint64_t length, bool to) {
    for (uint64_t at = offset; at < offset + length; ++at) bytes[at] = to;
  }
  uint64_t first(uint64_t offset, uint64_t length) const {
    for (uint64_t at = offset; at < offset + length; ++at)
      if (bytes[at]) return at;
    return RangeSet::k_none;
  }
};

}  // namespace

TEST_CASE("a set of ranges is the bytes that were put in and not taken out", "[fault]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  constexpr uint64_t k_size = 3000;
  for (int round = 0; round < 200; ++round) {
    RangesModel model(k_size);
    std::vector<Range> ranges;
    // Some sets are spread, some lie in a corner.
    const uint64_t from = rng.below(k_size / 2), width = 1 + rng.below(k_size / 2);
    for (uint64_t n = rng.below(40); n > 0; --n) {
      const uint64_t offset = from + rng.below(width);
      const uint64_t length = 1 + rng.below(std::min<uint64_t>(60, k_size - offset));
      ranges.push_back({offset, length});
      model.set(offset, length, true);
    }
    RangeSet set(ranges);
    for (int step = 0; step < 60; ++step) {
      const uint64_t offset = rng.below(k_size), length = 1 + rng.below(k_size - offset);
      if (rng.below(3) == 0) {
        set.erase(offset, length / 8);
        model.set(offset, length / 8, false);
      }
      REQUIRE(set.first(offset, length) == model.first(offset, length));
    }
    RangesModel listed(k_size);
    for (const Range& range : set.list()) listed.set(range.offset, range.length, true);
    CHECK(listed.bytes == model.bytes);
    CHECK(set.count() == set.list().size());
    CHECK(set.empty() == set.list().empty());
  }
}

TEST_CASE("a million bad sectors: every second one", "[fault]") {
  std::vector<Range> ranges;
  for (uint64_t i = 1'000'000; i-- > 0;) ranges.push_back({i * 1024 + 512, 512});
  RangeSet set(std::move(ranges));
  CHECK(set.count() == 1'000'000);
  bool right = true;
  for (uint64_t sector = 0; sector < 2'000'000; sector += 7)
    right = right && set.touches(sector * 512, 512) == (sector % 2 == 1);
  CHECK(right);
  for (uint64_t i = 0; i < 1000; ++i) set.erase(i * 1024 + 512, 512);
  CHECK(set.count() == 999'000);
  CHECK(set.first(0, 1 << 30) == 1000 * 1024 + 512);
}
