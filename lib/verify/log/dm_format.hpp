// SPDX-License-Identifier: MIT
// The log of the kernel's dm-log-writes target, version 1, by its documented layout
// (Documentation/admin-guide/device-mapper/log-writes.rst and the structures in
// drivers/md/dm-log-writes.c of Linux): a sector with the head, then for each entry a sector, which
// ends with the text of a mark, and the data in whole sectors. Numbers are little-endian.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pv::verify {

constexpr uint64_t k_dm_magic = 0x6a736677736872;
constexpr uint64_t k_dm_version = 1;
constexpr size_t k_dm_head = 28, k_dm_entry = 32;  // bytes of a sector that are used
constexpr uint32_t k_dm_max_sector = 64 << 10;
constexpr const char* k_dm_end_mark = "dm-log-writes-end";

struct DmHead {
  uint64_t entries = 0;
  uint32_t sector_size = 512;
};

constexpr uint64_t k_dm_flush = 1, k_dm_fua = 2, k_dm_discard = 4, k_dm_mark = 8, k_dm_meta = 16;

struct DmEntry {
  uint64_t sector = 0;  // in units of the head's sector size
  uint64_t sectors = 0;
  uint64_t flags = 0;
  uint64_t data_len = 0;  // of a mark's text

  bool has_data() const { return (flags & k_dm_discard) == 0; }
};

void encode_dm_head(const DmHead& head, char* bytes);
bool decode_dm_head(const char* bytes, DmHead& head);
void encode_dm_entry(const DmEntry& entry, char* bytes);
// False for what no log has: an empty entry, unknown flags, a range or a text that cannot be.
bool decode_dm_entry(const char* bytes, uint32_t sector_size, DmEntry& entry);

}  // namespace pv::verify
