// SPDX-License-Identifier: MIT
#include "blk/cow/format.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace pv::blk {
namespace {

static_assert(std::endian::native == std::endian::little, "fields are copied as they are");

constexpr char k_cow_magic[8] = {'P', 'V', 'C', 'O', 'W', '\r', '\n', '\x1a'};
constexpr uint32_t k_cow_version = 1;
constexpr uint32_t k_whole = 1, k_closed = 2;  // flags
constexpr size_t k_checksum_at = k_cow_header_sector - 8;

// The header, field by field in the order of the file; `visit(offset, field)`.
template <class Header, class Visit>
void each_field(Header& header, Visit&& visit) {
  visit(12, header.block);
  visit(16, header.size);
  visit(24, header.sequence);
  visit(32, header.id);
  visit(40, header.base_limit);
  visit(48, header.base.size);
  visit(56, header.base.file_size);
  visit(64, header.base.mtime_ns);
  visit(72, header.base.edges);
  visit(80, header.base.content);
  visit(92, header.sector);
}

bool all_zero(const char* bytes, size_t count) {
  return std::all_of(bytes, bytes + count, [](char c) { return c == 0; });
}

bool plausible(const CowHeader& header) {
  return std::has_single_bit(header.block) && header.block >= k_cow_min_block &&
         header.block <= k_cow_max_block && std::has_single_bit(header.sector) &&
         header.sector >= 512 && header.sector <= header.block && header.size != 0 &&
         header.size % header.sector == 0 && header.size <= uint64_t{1} << 62 &&
         header.base_limit <= header.base.size;
}

}  // namespace

void encode_header(const CowHeader& header, char* sector) {
  std::memset(sector, 0, k_cow_header_sector);
  std::memcpy(sector, k_cow_magic, sizeof k_cow_magic);
  std::memcpy(sector + 8, &k_cow_version, sizeof k_cow_version);
  each_field(header,
             [&](size_t at, const auto& field) { std::memcpy(sector + at, &field, sizeof field); });
  const uint32_t flags = (header.base.whole ? k_whole : 0) | (header.closed ? k_closed : 0);
  std::memcpy(sector + 88, &flags, sizeof flags);
  const uint64_t checksum = XXH3_64bits(sector, k_checksum_at);
  std::memcpy(sector + k_checksum_at, &checksum, sizeof checksum);
}

bool has_cow_magic(const char* sector) {
  return std::memcmp(sector, k_cow_magic, sizeof k_cow_magic) == 0;
}

Decoded decode_header(const char* sector, CowHeader& header) {
  if (all_zero(sector, k_cow_header_sector)) return Decoded::blank;
  uint64_t checksum;
  std::memcpy(&checksum, sector + k_checksum_at, sizeof checksum);
  uint32_t version;
  std::memcpy(&version, sector + 8, sizeof version);
  if (!has_cow_magic(sector) || version != k_cow_version ||
      checksum != XXH3_64bits(sector, k_checksum_at))
    return Decoded::bad;
  each_field(header,
             [&](size_t at, auto& field) { std::memcpy(&field, sector + at, sizeof field); });
  uint32_t flags;
  std::memcpy(&flags, sector + 88, sizeof flags);
  header.base.whole = (flags & k_whole) != 0;
  header.closed = (flags & k_closed) != 0;
  return plausible(header) ? Decoded::good : Decoded::bad;
}

void seal_page(char* page, uint64_t id, uint64_t group, uint64_t sequence) {
  std::memcpy(page + 8, &sequence, sizeof sequence);
  const uint64_t checksum = XXH3_64bits_withSeed(page + 8, k_cow_page - 8, id + group);
  std::memcpy(page, &checksum, sizeof checksum);
}

Decoded check_page(const char* page, uint64_t id, uint64_t group, uint64_t& sequence) {
  sequence = 0;
  if (all_zero(page, k_cow_page)) return Decoded::blank;
  uint64_t checksum;
  std::memcpy(&checksum, page, sizeof checksum);
  if (checksum != XXH3_64bits_withSeed(page + 8, k_cow_page - 8, id + group)) return Decoded::bad;
  std::memcpy(&sequence, page + 8, sizeof sequence);
  return sequence != 0 ? Decoded::good : Decoded::bad;
}

}  // namespace pv::blk
