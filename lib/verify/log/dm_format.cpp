// SPDX-License-Identifier: MIT
#include "verify/log/dm_format.hpp"

#include <bit>
#include <cstring>

namespace pv::verify {
namespace {

static_assert(std::endian::native == std::endian::little, "fields are copied as they are");

constexpr uint64_t k_max_bytes = uint64_t{1} << 62;
constexpr uint64_t k_known = k_dm_flush | k_dm_fua | k_dm_discard | k_dm_mark | k_dm_meta;

}  // namespace

void encode_dm_head(const DmHead& head, char* bytes) {
  std::memcpy(bytes, &k_dm_magic, 8);
  std::memcpy(bytes + 8, &k_dm_version, 8);
  std::memcpy(bytes + 16, &head.entries, 8);
  std::memcpy(bytes + 24, &head.sector_size, 4);
}

bool decode_dm_head(const char* bytes, DmHead& head) {
  if (std::memcmp(bytes, &k_dm_magic, 8) != 0 || std::memcmp(bytes + 8, &k_dm_version, 8) != 0)
    return false;
  std::memcpy(&head.entries, bytes + 16, 8);
  std::memcpy(&head.sector_size, bytes + 24, 4);
  return std::has_single_bit(head.sector_size) && head.sector_size >= 512 &&
         head.sector_size <= k_dm_max_sector;
}

void encode_dm_entry(const DmEntry& entry, char* bytes) {
  std::memcpy(bytes, &entry.sector, 8);
  std::memcpy(bytes + 8, &entry.sectors, 8);
  std::memcpy(bytes + 16, &entry.flags, 8);
  std::memcpy(bytes + 24, &entry.data_len, 8);
}

bool decode_dm_entry(const char* bytes, uint32_t sector_size, DmEntry& entry) {
  std::memcpy(&entry.sector, bytes, 8);
  std::memcpy(&entry.sectors, bytes + 8, 8);
  std::memcpy(&entry.flags, bytes + 16, 8);
  std::memcpy(&entry.data_len, bytes + 24, 8);
  const uint64_t most = k_max_bytes / sector_size;
  if ((entry.flags & ~k_known) != 0 || (entry.flags == 0 && entry.sectors == 0)) return false;
  if (entry.sector > most || entry.sectors > most) return false;
  const bool mark = (entry.flags & k_dm_mark) != 0;
  if (mark) return entry.sectors == 0 && entry.data_len <= sector_size - k_dm_entry;
  return entry.data_len == 0;
}

}  // namespace pv::verify
