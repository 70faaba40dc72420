// SPDX-License-Identifier: MIT
#define XXH_INLINE_ALL
#include "verify/block.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <endian.h>
#include <xxhash.h>

#include "base/rng.hpp"

namespace pv::verify {
namespace {

constexpr char k_magic[] = "PVBLOCK1";
constexpr size_t k_label = 48;
constexpr size_t k_checksum_at = 40;
constexpr size_t k_max_sectors = 8;  // of a report
constexpr size_t k_max_candidates = 8;

void put64(char* out, uint64_t value) {
  value = htole64(value);
  std::memcpy(out, &value, sizeof value);
}
uint64_t get64(const char* bytes) {
  uint64_t value = 0;
  std::memcpy(&value, bytes, sizeof value);
  return le64toh(value);
}

uint64_t checksum(const char* sector) {
  char copy[k_unit];
  std::memcpy(copy, sector, k_unit);
  put64(copy + k_checksum_at, 0);
  return XXH3_64bits(copy, k_unit);
}

void make_sector(const BlockId& id, uint64_t address, char* out) {
  std::memcpy(out, k_magic, 8);
  put64(out + 8, address);
  put64(out + 16, id.generation);
  put64(out + 24, id.seed);
  put64(out + 32, id.size);  // the upper half is zero
  put64(out + k_checksum_at, 0);
  uint64_t chain = mix(mix(id.seed, id.generation), address);
  for (size_t at = k_label; at < k_unit; at += sizeof chain) put64(out + at, mix(chain++));
  put64(out + k_checksum_at, XXH3_64bits(out, k_unit));
}

std::string block_of(const BlockId& id, uint64_t offset) {
  std::string block(id.size, 0);
  make_block(id, offset, block.data());
  return block;
}

// What other blocks the labels in a damaged one hint at.
struct Candidates {
  std::vector<std::string> older, elsewhere;
  std::vector<uint64_t> generations, places, place_generations;  // of these
  std::optional<uint64_t> from;     // of the first sector that belongs elsewhere
  size_t wrong = 0, explained = 0;  // sectors

  void add(const BlockId& id, uint64_t offset, size_t sector, const SectorLabel& label) {
    if (label.id.size != id.size || label.id.seed != id.seed) return;
    ++explained;
    const uint64_t place = label.address - sector * k_unit;
    if (place != offset && !from) from = place;
    BlockId there = id;
    there.generation = label.id.generation;
    if (place == offset) {
      const bool known =
          std::find(generations.begin(), generations.end(), there.generation) != generations.end();
      if (known || there.generation >= id.generation || older.size() == k_max_candidates) return;
      generations.push_back(there.generation);
      older.push_back(block_of(there, offset));
    } else if (elsewhere.size() < k_max_candidates && sector == 0) {
      places.push_back(place);
      place_generations.push_back(there.generation);
      elsewhere.push_back(block_of(there, place));
    }
  }
};

std::vector<std::string_view> views(const std::vector<std::string>& texts) {
  return {texts.begin(), texts.end()};
}

}  // namespace

bool Selection::has(uint64_t block) const {
  return threshold == UINT64_MAX || mix(seed, block) < threshold;
}

// A Feistel network over the next power of four, walked until it lands within the disk.
uint64_t Selection::shuffled(uint64_t n) const {
  const unsigned half = std::max(1, (static_cast<int>(std::bit_width(blocks - 1)) + 1) / 2);
  const uint64_t mask = (1ULL << half) - 1;
  do {
    uint64_t left = n >> half, right = n & mask;
    for (uint64_t round = 0; round < 4; ++round) {
      const uint64_t next = left ^ (mix(mix(seed, round), right) & mask);
      left = right;
      right = next;
    }
    n = left << half | right;
  } while (n >= blocks);
  return n;
}

void make_block(const BlockId& id, uint64_t offset, char* out) {
  for (size_t at = 0; at < id.size; at += k_unit) make_sector(id, offset + at, out + at);
}

std::optional<SectorLabel> read_label(std::string_view sector) {
  if (sector.size() != k_unit || std::memcmp(sector.data(), k_magic, 8) != 0) return std::nullopt;
  if (get64(sector.data() + k_checksum_at) != checksum(sector.data())) return std::nullopt;
  const uint64_t size = get64(sector.data() + 32);
  if (size < k_unit || size > UINT32_MAX) return std::nullopt;
  return SectorLabel{
      get64(sector.data() + 8),
      {get64(sector.data() + 16), get64(sector.data() + 24), static_cast<uint32_t>(size)}};
}

BlockReport examine(const BlockId& id, uint64_t offset, std::string_view actual) {
  BlockReport report;
  const std::string expected = block_of(id, offset);
  if (actual == expected) return report;
  Candidates candidates;
  std::optional<SectorLabel> first;
  for (size_t sector = 0; sector < actual.size() / k_unit; ++sector) {
    const std::string_view bytes = actual.substr(sector * k_unit, k_unit);
    if (bytes == std::string_view(expected).substr(sector * k_unit, k_unit)) continue;
    if (report.sectors.size() < k_max_sectors)
      report.sectors.push_back(static_cast<uint32_t>(sector));
    ++candidates.wrong;
    candidates.explained += all_zero(bytes);
    const auto label = read_label(bytes);
    if (!label) continue;
    if (!first) first = label;
    candidates.add(id, offset, sector, *label);
  }
  Verdict& verdict = report.verdict;
  verdict =
      classify(offset, expected, actual, views(candidates.older), views(candidates.elsewhere));
  if (verdict.damage == Damage::stale || verdict.damage == Damage::torn)
    report.generation =
        verdict.candidate == SIZE_MAX ? 0 : candidates.generations[verdict.candidate];
  if (verdict.damage == Damage::misdirected) {
    report.from = candidates.places[verdict.candidate];
    report.generation = candidates.place_generations[verdict.candidate];
  }
  // The edge of a write that came to lie across blocks: some of its sectors, the rest as before.
  if (verdict.damage == Damage::other && candidates.from &&
      candidates.explained == candidates.wrong) {
    verdict.damage = Damage::misdirected;
    report.from = candidates.from;
  }
  if (verdict.damage == Damage::other && first) {
    report.generation = first->id.generation;
    if (first->id.seed != id.seed) report.seed = first->id.seed;
  }
  return report;
}

}  // namespace pv::verify
