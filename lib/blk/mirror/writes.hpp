// SPDX-License-Identifier: MIT
// What was written lately: who wrote which range, and a hash of each sector of it. Tells the last
// writer of a range, and whether bytes that should not be there were there before, or were meant
// for another place. Of fixed size, however large the disk is and however long it runs: a ring of
// k_writes writes, a ring of k_hashes hashes, and a coarse table that still knows the number of the
// last writer of an area when the ring has forgotten it. Owned by one layer, on its thread; memory
// that is never used is never touched.
#pragma once

#include <array>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "blk/disk.hpp"

namespace pv::blk {

constexpr uint64_t k_unit = 512;  // bytes that have a hash of their own

uint64_t hash_unit(const char* bytes);  // of k_unit bytes
uint64_t zero_unit_hash();

class Writes {
 public:
  static constexpr uint64_t k_writes = 1 << 17;
  static constexpr uint64_t k_hashes = 1 << 20;  // 512 MiB of data
  static constexpr uint64_t k_seen = 1 << 20;    // of what was read
  static constexpr uint64_t k_areas = 1 << 18;
  static constexpr uint16_t k_in_flight = UINT16_MAX;
  enum Side { test = 0, reference = 1 };

  struct Write {
    uint64_t offset, end;
    uint64_t request;  // its number
    uint64_t t_ns;
    uint64_t first_hash;  // position in the ring of hashes
    uint32_t connection;
    std::array<uint16_t, 2> status;  // of each side
    std::array<uint8_t, 2> rule;     // that a fault layer applied on that side, see rule_name()
    Op op;
    Front front;
    enum Content : uint8_t { hashed, zeroes, unknown } content;
  };

  explicit Writes(uint64_t disk_size);

  // A change begins; its data is looked at now. `content` says what the range will read as.
  uint64_t begin(const Request& request, uint64_t number, uint64_t t_ns, Write::Content content);
  void end(uint64_t serial, Side side, int status, const std::string& rule);

  // The newest first, all that touch [begin, end), until `look` returns false.
  template <class Look>
  void each(uint64_t begin, uint64_t end, Look&& look) const {
    const uint64_t oldest = next_ > k_writes ? next_ - k_writes : 0;
    for (uint64_t serial = next_; serial-- > oldest;) {
      const Write& write = writes_[serial % k_writes];
      if (write.offset < end && begin < write.end && !look(write)) return;
    }
  }
  // The hash that this write has left at `offset`, a multiple of k_unit in its range.
  std::optional<uint64_t> hash(const Write& write, uint64_t offset) const;
  // The newest write that has put these bytes to another place than `not_at`, and where.
  struct Found {
    const Write* write;
    uint64_t offset;
  };
  std::optional<Found> find(uint64_t hash, uint64_t not_at) const;

  // What was read there last and was right. It tells what was there before the first write.
  void saw(uint64_t offset, const char* bytes, uint64_t length);
  bool was_seen(uint64_t offset, uint64_t hash) const;

  // What the coarse table knows of the area that `offset` lies in; 0: nothing was written there.
  struct Area {
    uint64_t offset, length, request;
  };
  Area area(uint64_t offset) const;

  const std::string& rule_name(uint8_t index) const { return rules_[index]; }
  uint64_t count() const { return next_; }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  template <class T>
  using Array = std::unique_ptr<T[], Free>;
  uint8_t rule_index(const std::string& name);
  size_t free_rule();

  Array<Write> writes_;
  Array<uint64_t> hashes_;
  Array<uint64_t> seen_;   // hashes and where, in one
  Array<uint64_t> areas_;  // number of the request that wrote there last
  uint64_t next_ = 0, next_hash_ = 0;
  uint64_t area_bytes_;
  std::vector<std::string> rules_{""};
  uint64_t rules_swept_ = 0;  // number of writes when that was done last
};

}  // namespace pv::blk
