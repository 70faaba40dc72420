// SPDX-License-Identifier: MIT
// Damage of every class, made on purpose. If this fails, a lost write is taken for a bad medium, or
// a bad block for a good one.

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "verify/block.hpp"

using namespace pv;
using namespace pv::verify;
using namespace pv::test;

namespace {

std::string block(uint64_t generation, uint64_t offset, uint32_t size = 4096) {
  std::string bytes(size, '\0');
  make_block({generation, 5, size}, offset, bytes.data());
  return bytes;
}

void flip(Rng& rng, std::string& bytes, uint64_t count) {
  for (; count > 0; --count) {
    char& c = bytes[rng.below(bytes.size())];
    c = static_cast<char>(c ^ (1 << rng.below(8)));
  }
}

}  // namespace

TEST_CASE("ten thousand injections are told apart, among candidates", "[verify]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  for (int i = 0; i < 10'000; ++i) {
    const uint64_t offset = 512 * rng.below(1000);
    const size_t units = 2 + rng.below(15), length = 512 * units;
    const std::string expected = random_bytes(rng, length);
    const std::string before[] = {random_bytes(rng, length), random_bytes(rng, length)};
    const std::string foreign[] = {random_bytes(rng, length), random_bytes(rng, length)};
    const std::string_view older[] = {before[0], before[1]};
    const std::string_view elsewhere[] = {foreign[0], foreign[1]};
    const size_t which = rng.below(2);
    std::string actual = expected;
    size_t candidate = SIZE_MAX;
    const auto wanted = static_cast<Damage>(rng.below(7));
    switch (wanted) {
      case Damage::none:
        break;
      case Damage::stale:
        actual = before[candidate = which];
        break;
      case Damage::zeroed:
        actual.assign(length, '\0');
        break;
      case Damage::misdirected:
        actual = foreign[candidate = which];
        break;
      case Damage::torn: {
        candidate = which;
        const size_t first = rng.below(units - 1), count = 1 + rng.below(units - 1 - first);
        actual.replace(512 * first, 512 * count, before[which], 512 * first, 512 * count);
        break;
      }
      case Damage::bit_flip:
        flip(rng, actual, 1 + 2 * rng.below(4));  // an odd number never takes itself back
        break;
      case Damage::other:
        actual.replace(256, 300, random_bytes(rng, 300));
        break;
    }
    const Verdict verdict = classify(offset, expected, actual, older, elsewhere);
    INFO("wanted " << damage_name(wanted) << ", got " << damage_name(verdict.damage));
    REQUIRE(verdict.damage == wanted);
    REQUIRE(verdict.candidate == candidate);
    REQUIRE(verdict.bits == differing_bits(expected, actual));
  }
}

TEST_CASE("a range that begins within a sector is torn where sectors end", "[verify]") {
  const std::string expected(2000, 'n'), before(2000, 'o');
  const std::string_view older[] = {before};
  std::string actual = expected;
  actual.replace(0, 412, before, 0, 412);  // from 100 to the end of the first sector
  CHECK(classify(100, expected, actual, older).damage == Damage::torn);
  CHECK(classify(0, expected, actual, older).damage == Damage::other);
  actual = expected;
  actual.replace(412, 512, std::string(512, '\0'));
  CHECK(classify(100, expected, actual).damage == Damage::torn);
  CHECK(classify(100, expected, actual).candidate == SIZE_MAX);
  CHECK(classify(100, expected, "short").damage == Damage::other);
}

TEST_CASE("every byte of a block counts, and its label is read back", "[verify]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  const BlockId id{3, 5, 4096};
  const std::string good = block(3, 8192);
  CHECK(examine(id, 8192, good).verdict.damage == Damage::none);
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ (1 << rng.below(8)));
    const BlockReport report = examine(id, 8192, bad);
    REQUIRE(report.verdict.damage == Damage::bit_flip);
    REQUIRE(report.verdict.bits == 1);
    REQUIRE(report.sectors == std::vector<uint32_t>{static_cast<uint32_t>(at / 512)});
    REQUIRE(!read_label(std::string_view(bad).substr(at / 512 * 512, 512)));
  }
  const auto label = read_label(std::string_view(good).substr(1024, 512));
  REQUIRE(label);
  CHECK(label->address == 8192 + 1024);
  CHECK(label->id.generation == 3);
  CHECK(label->id.seed == 5);
  CHECK(label->id.size == 4096);
}

TEST_CASE("a block says what is in its place", "[verify]") {
  const BlockId id{3, 5, 4096};
  const std::string good = block(3, 8192), old = block(2, 8192);
  CHECK(examine(id, 8192, old).verdict.damage == Damage::stale);
  CHECK(examine(id, 8192, old).generation == 2);
  CHECK(examine(id, 8192, block(4, 8192)).verdict.damage == Damage::other);
  CHECK(examine(id, 8192, block(4, 8192)).generation == 4);
  CHECK(examine(id, 8192, std::string(4096, '\0')).verdict.damage == Damage::zeroed);

  BlockReport report = examine(id, 8192, block(3, 40960));
  CHECK(report.verdict.damage == Damage::misdirected);
  CHECK(report.from == 40960);
  CHECK(examine(id, 8192, block(1, 40960)).from == 40960);

  std::string torn = good;
  torn.replace(512, 1024, old, 512, 1024);
  report = examine(id, 8192, torn);
  CHECK(report.verdict.damage == Damage::torn);
  CHECK(report.generation == 2);
  CHECK(report.sectors == std::vector<uint32_t>{1, 2});
  torn.replace(512, 1024, std::string(1024, '\0'));
  CHECK(examine(id, 8192, torn).verdict.damage == Damage::torn);
  CHECK(examine(id, 8192, torn).generation == 0);
  // Of two older generations at once no single write was torn.
  torn.replace(512, 512, old, 512, 512);
  torn.replace(1024, 512, block(1, 8192), 1024, 512);
  CHECK(examine(id, 8192, torn).verdict.damage == Damage::other);

  // A write that came to lie a sector further on: this block has its tail, and its own old head.
  const std::string shifted = old.substr(0, 512) + good.substr(0, 4096 - 512);
  report = examine(id, 8192, shifted);
  CHECK(report.verdict.damage == Damage::misdirected);
  CHECK(report.from == 8192 - 512);

  std::string alien(4096, '\0');
  make_block({3, 6, 4096}, 8192, alien.data());
  CHECK(examine(id, 8192, alien).verdict.damage == Damage::other);
  CHECK(examine(id, 8192, alien).seed == 6);
}

TEST_CASE("a random order has every block once, and a fraction is about that part", "[verify]") {
  for (const uint64_t blocks : {1, 2, 3, 4, 5, 17, 64, 1000, 65537}) {
    Selection selection;
    selection.blocks = blocks;
    selection.seed = 9;
    std::vector<bool> seen(blocks, false);
    uint64_t in_place = 0;
    for (uint64_t n = 0; n < blocks; ++n) {
      const uint64_t at = selection.shuffled(n);
      REQUIRE(at < blocks);
      REQUIRE(!seen[at]);
      seen[at] = true;
      in_place += at == n;
    }
    if (blocks >= 64) CHECK(in_place < blocks / 8);
    selection.threshold = UINT64_MAX / 4;
    uint64_t chosen = 0;
    for (uint64_t n = 0; n < blocks; ++n) chosen += selection.has(n);
    if (blocks > 60'000) CHECK((chosen > 15'000 && chosen < 18'000));
  }
}
