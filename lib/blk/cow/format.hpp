// SPDX-License-Identifier: MIT
// What an overlay file of the cow layer looks like (pv-layers(7), ON-DISK LAYOUT): bytes in, values
// out. Knows no files and no disks.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pv::blk {

constexpr uint64_t k_cow_page = 4096;
constexpr uint64_t k_cow_head = 64 << 10;           // bytes before the first group
constexpr uint64_t k_cow_states = k_cow_page - 16;  // bytes of states in a map page
constexpr uint64_t k_cow_group = k_cow_states * 4;  // blocks of a group, two bits each
constexpr uint64_t k_cow_header_sector = 512;       // what of a header slot is used
constexpr uint32_t k_cow_min_block = 4 << 10, k_cow_max_block = 1 << 20;

enum class BlockState : uint8_t { absent, data, zero };  // two bits; 3 is none

// What is remembered of the base that an overlay was made on.
struct BaseIdentity {
  uint64_t size = 0;       // bytes of the disk
  uint64_t file_size = 0;  // bytes of its file, 0 when it is none
  uint64_t mtime_ns = 0;   // of its file, 0 when it is none
  uint64_t edges = 0;      // XXH3 of the first and last 64 KiB
  uint64_t content = 0;    // XXH3 of all data, or of samples
  bool whole = false;      // `content` saw all
};

struct CowHeader {
  uint32_t block = 0;
  uint32_t sector = 512;
  uint64_t size = 0;  // bytes of the disk
  uint64_t sequence = 0;
  uint64_t id = 0;          // chance: pages of another overlay are noticed
  uint64_t base_limit = 0;  // bytes of the base that are visible
  BaseIdentity base;
  bool closed = false;  // in order: every page that is not blank must be whole
};

enum class Decoded : uint8_t { blank, good, bad };

void encode_header(const CowHeader& header, char* sector);
// `bad` for a wrong checksum as well as for values that no overlay has.
Decoded decode_header(const char* sector, CowHeader& header);
// Whether a header begins as ours do, however damaged the rest.
bool has_cow_magic(const char* sector);

// Page: checksum, sequence, states. The checksum covers overlay and group: a page that went astray
// is no page.
void seal_page(char* page, uint64_t id, uint64_t group, uint64_t sequence);
Decoded check_page(const char* page, uint64_t id, uint64_t group, uint64_t& sequence);
inline char* page_states(char* page) {
  return page + 16;
}

// Where things are in the file.
struct CowLayout {
  uint32_t block = 0;

  uint64_t group_bytes() const { return 2 * k_cow_page + k_cow_group * block; }
  uint64_t group_at(uint64_t group) const { return k_cow_head + group * group_bytes(); }
  uint64_t slot_at(uint64_t group, unsigned slot) const {
    return group_at(group) + slot * k_cow_page;
  }
  // File offset of a byte of the disk.
  uint64_t data_at(uint64_t offset) const {
    const uint64_t group = offset / (k_cow_group * block);
    return group_at(group) + 2 * k_cow_page + offset % (k_cow_group * block);
  }
  // Up to where data_at() goes on without a gap.
  uint64_t contiguous_end(uint64_t offset) const {
    return (offset / (k_cow_group * block) + 1) * k_cow_group * block;
  }
  uint64_t blocks(uint64_t size) const { return (size + block - 1) / block; }
  uint64_t groups(uint64_t size) const { return (blocks(size) + k_cow_group - 1) / k_cow_group; }
  uint64_t file_length(uint64_t size) const { return data_at(size - 1) + 1; }
};

}  // namespace pv::blk
