// SPDX-License-Identifier: MIT
#include "blk/mirror/writes.hpp"

#include <algorithm>
#include <new>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "blk/segments.hpp"

namespace pv::blk {
namespace {

constexpr uint64_t k_smallest_area = 64 << 10;
constexpr size_t k_max_rules = 255;  // beyond that they share a name
constexpr uint64_t k_sweep = 4096;   // writes between two looks for names that are free

// A hash together with its place; never 0.
uint64_t placed(uint64_t hash, uint64_t unit) {
  return (hash ^ (unit + 1) * 0x9e3779b97f4a7c15) | 1;
}

template <class T>
T* allocate(uint64_t count) {
  void* memory = std::calloc(count, sizeof(T));
  if (memory == nullptr) throw std::bad_alloc();
  return static_cast<T*>(memory);
}

}  // namespace

uint64_t hash_unit(const char* bytes) {
  return XXH3_64bits(bytes, k_unit);
}

uint64_t zero_unit_hash() {
  static const uint64_t hash = [] {
    const std::array<char, k_unit> zeroes{};
    return hash_unit(zeroes.data());
  }();
  return hash;
}

Writes::Writes(uint64_t disk_size)
    : writes_(allocate<Write>(k_writes)),
      hashes_(allocate<uint64_t>(k_hashes)),
      seen_(allocate<uint64_t>(k_seen)),
      areas_(allocate<uint64_t>(k_areas)),
      area_bytes_(k_smallest_area) {
  while (area_bytes_ < disk_size / k_areas + 1) area_bytes_ *= 2;
}

uint8_t Writes::rule_index(const std::string& name) {
  if (name.empty()) return 0;
  const auto known = std::find(rules_.begin(), rules_.end(), name);
  if (known != rules_.end()) return static_cast<uint8_t>(known - rules_.begin());
  if (rules_.size() >= k_max_rules) {
    if (const size_t free = free_rule(); free != 0) {
      rules_[free] = name;
      return static_cast<uint8_t>(free);
    }
  }
  if (rules_.size() == k_max_rules) rules_.emplace_back("(one of many)");
  if (rules_.size() > k_max_rules) return k_max_rules;
  rules_.push_back(name);
  return static_cast<uint8_t>(rules_.size() - 1);
}

// A name that no write has any more that is kept; 0: none, or it was looked for a moment ago.
size_t Writes::free_rule() {
  if (rules_swept_ != 0 && next_ < rules_swept_ + k_sweep) return 0;
  rules_swept_ = next_;
  std::array<bool, k_max_rules + 1> used{};
  for (uint64_t i = 0; i < std::min(next_, k_writes); ++i)
    for (const uint8_t rule : writes_[i].rule) used[rule] = true;
  for (size_t i = 1; i < k_max_rules; ++i)
    if (!used[i]) return i;
  return 0;
}

void Writes::saw(uint64_t offset, const char* bytes, uint64_t length) {
  for (uint64_t at = 0; at + k_unit <= length; at += k_unit) {
    const uint64_t unit = (offset + at) / k_unit;
    seen_[unit % k_seen] = placed(hash_unit(bytes + at), unit);
  }
}

bool Writes::was_seen(uint64_t offset, uint64_t hash) const {
  const uint64_t unit = offset / k_unit;
  return seen_[unit % k_seen] == placed(hash, unit);
}

uint64_t Writes::begin(const Request& request, uint64_t number, uint64_t t_ns,
                       Write::Content content) {
  const uint64_t serial = next_++, end = request.offset + request.length;
  Write& write = writes_[serial % k_writes];
  write = {request.offset,
           end,
           number,
           t_ns,
           next_hash_,
           request.connection,
           {k_in_flight, k_in_flight},
           {0, 0},
           request.op,
           request.front,
           content};
  for (uint64_t area = request.offset / area_bytes_; area * area_bytes_ < end; ++area)
    areas_[area % k_areas] = number;
  if (content != Write::hashed) return serial;
  alignas(64) std::array<char, k_unit> split;  // a sector that lies in several pieces
  size_t have = 0;
  each_segment(request, 0, request.length, [&](const char* data, size_t size) {
    while (size != 0) {
      const size_t n = std::min<size_t>(size, k_unit - have);
      if (n == k_unit) {
        hashes_[next_hash_++ % k_hashes] = hash_unit(data);
      } else {
        std::memcpy(split.data() + have, data, n);
        have += n;
        if (have == k_unit) {
          hashes_[next_hash_++ % k_hashes] = hash_unit(split.data());
          have = 0;
        }
      }
      data += n;
      size -= n;
    }
  });
  return serial;
}

void Writes::end(uint64_t serial, Side side, int status, const std::string& rule) {
  if (serial + k_writes < next_) return;  // forgotten meanwhile
  Write& write = writes_[serial % k_writes];
  write.status[side] = static_cast<uint16_t>(status);
  write.rule[side] = rule_index(rule);
}

std::optional<uint64_t> Writes::hash(const Write& write, uint64_t offset) const {
  if (write.content == Write::zeroes) return zero_unit_hash();
  if (write.content == Write::unknown) return std::nullopt;
  const uint64_t position = write.first_hash + (offset - write.offset) / k_unit;
  if (position + k_hashes < next_hash_) return std::nullopt;
  return hashes_[position % k_hashes];
}

std::optional<Writes::Found> Writes::find(uint64_t hash, uint64_t not_at) const {
  const uint64_t oldest = next_ > k_writes ? next_ - k_writes : 0;
  for (uint64_t serial = next_; serial-- > oldest;) {
    const Write& write = writes_[serial % k_writes];
    if (write.content != Write::hashed) continue;
    if (write.first_hash + k_hashes < next_hash_) break;  // those before have no hashes either
    const uint64_t units = (write.end - write.offset) / k_unit;
    for (uint64_t i = 0; i < units; ++i) {
      const uint64_t offset = write.offset + i * k_unit;
      if (hashes_[(write.first_hash + i) % k_hashes] == hash && offset != not_at)
        return Found{&write, offset};
    }
  }
  return std::nullopt;
}

Writes::Area Writes::area(uint64_t offset) const {
  const uint64_t area = offset / area_bytes_;
  return {area * area_bytes_, area_bytes_, areas_[area % k_areas]};
}

}  // namespace pv::blk
