// SPDX-License-Identifier: MIT
#include "blk/mirror/explain.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace pv::blk {
namespace {

constexpr size_t k_max_units = 256;   // sectors of a mismatch that are looked at
constexpr size_t k_max_writes = 256;  // writes to it that are
constexpr uint64_t k_few_bits = 8;    // so many wrong ones are a flip
constexpr uint64_t k_zero_bytes = 8;  // a shorter run of zeroes may be chance

// One sector that differs.
struct Unit {
  uint64_t offset;
  const Writes::Write* newest = nullptr;
  const Writes::Write* older = nullptr;  // whose version is there instead
};

class Look {
 public:
  Look(const Writes& writes, const char* test, const char* reference, uint64_t offset,
       uint64_t length, const std::vector<ByteSpan>& spans)
      : writes_(writes), sides_{test, reference}, offset_(offset), length_(length), spans_(spans) {
    for (const ByteSpan& span : spans) {
      const uint64_t end = span.offset + span.length;
      for (uint64_t at = span.offset / k_unit * k_unit; at < end && units_.size() < k_max_units;
           at += k_unit)
        if (units_.empty() || units_.back().offset < at)
          if (std::memcmp(test + (at - offset), reference + (at - offset), k_unit) != 0)
            units_.push_back({at});
    }
    writes.each(offset, offset + length, [&](const Writes::Write& write) {
      known_.push_back(&write);
      return known_.size() < k_max_writes;
    });
    for (Unit& unit : units_) {
      size_t next = 0;
      unit.newest = covering(unit.offset, next);
    }
  }

  // The differences by the write that should be there, each in order.
  std::vector<std::vector<ByteSpan>> by_write() const {
    std::vector<std::vector<ByteSpan>> groups;
    Groups writers;
    size_t at = 0, group = 0;
    for (const ByteSpan& span : spans_) {
      const uint64_t end = span.offset + span.length;
      for (uint64_t begin = span.offset; begin < end;) {
        // What lies behind the last sector that was looked at goes with that one.
        if (at < units_.size() && units_[at].offset <= begin) {
          group = writers.of(units_[at++].newest);
          if (group == groups.size()) groups.emplace_back();
        }
        const bool more = at < units_.size();
        const uint64_t until = more ? std::min(end, std::max(units_[at].offset, begin + 1)) : end;
        add_span(groups[group], begin, until);
        begin = until;
      }
    }
    return groups;
  }

  Explanation run(Explanation::Suspect otherwise) {
    Explanation answer;
    answer.suspect = suspect();
    if (answer.suspect == Explanation::unknown) answer.suspect = otherwise;
    wrong_ = sides_[answer.suspect == Explanation::reference ? 1 : 0];
    right_ = sides_[answer.suspect == Explanation::reference ? 0 : 1];
    size_t old = 0;
    for (Unit& unit : units_) old += find_older(unit) ? 1 : 0;
    if (old == units_.size()) {
      answer.damage = part_has_arrived() ? Damage::torn : Damage::stale;
      answer.version = units_.front().older;
    } else if (wrong_bits() <= k_few_bits) {
      answer.damage = Damage::bit_flip;
    } else if (zeroes()) {
      answer.damage = Damage::zeroed;
    } else if (const auto found = elsewhere()) {
      answer.damage = Damage::misdirected;
      answer.version = found->write;
      answer.from = found->offset;
    }
    return answer;
  }

 private:
  const char* at(const char* side, uint64_t offset) const { return side + (offset - offset_); }

  // The newest write that covers the sector, and the place of the next older one in known_.
  const Writes::Write* covering(uint64_t offset, size_t& next) const {
    for (; next < known_.size(); ++next)
      if (known_[next]->offset <= offset && offset < known_[next]->end) return known_[next++];
    return nullptr;
  }

  Explanation::Suspect suspect() const {
    size_t by_side[2] = {0, 0}, neither = 0;
    for (const Unit& unit : units_) {
      const auto wanted = unit.newest ? writes_.hash(*unit.newest, unit.offset) : std::nullopt;
      if (!wanted) continue;
      const bool good[2] = {hash_unit(at(sides_[0], unit.offset)) == *wanted,
                            hash_unit(at(sides_[1], unit.offset)) == *wanted};
      if (good[0] == good[1])
        ++neither;
      else
        ++by_side[good[0] ? 1 : 0];
    }
    if (by_side[0] + by_side[1] + neither == 0) return Explanation::unknown;
    if (neither != 0 || (by_side[0] != 0 && by_side[1] != 0)) return Explanation::both;
    return by_side[0] != 0 ? Explanation::test : Explanation::reference;
  }

  bool find_older(Unit& unit) const {
    const uint64_t there = hash_unit(at(wrong_, unit.offset));
    size_t next = 0;
    for (const Writes::Write* write = covering(unit.offset, next); write != nullptr;
         write = covering(unit.offset, next)) {
      if (write == unit.newest || writes_.hash(*write, unit.offset) != there) continue;
      unit.older = write;
      return true;
    }
    return unit.newest != nullptr && writes_.hash(*unit.newest, unit.offset) != there &&
           writes_.was_seen(unit.offset, there);
  }

  // Whether of the write that should be there other sectors are, and have replaced something else.
  bool part_has_arrived() const {
    const Writes::Write* last = units_.front().newest;
    if (last == nullptr) return false;
    const uint64_t end = std::min(last->end, offset_ + length_);
    for (uint64_t place = std::max(last->offset, offset_); place < end; place += k_unit) {
      if (std::memcmp(at(wrong_, place), at(right_, place), k_unit) != 0) continue;
      size_t next = 0;
      if (covering(place, next) != last) continue;
      const Writes::Write* before = covering(place, next);
      const auto old = before ? writes_.hash(*before, place) : std::nullopt;
      const uint64_t there = hash_unit(at(right_, place));
      if (old ? *old != there : !writes_.was_seen(place, there)) return true;
    }
    return false;
  }

  uint64_t wrong_bits() const {
    uint64_t bits = 0;
    for (const Unit& unit : units_) {
      const char *a = at(wrong_, unit.offset), *b = at(right_, unit.offset);
      for (size_t i = 0; i < k_unit && bits <= k_few_bits; ++i)
        bits += static_cast<uint64_t>(std::popcount(static_cast<uint8_t>(a[i] ^ b[i])));
    }
    return bits;
  }

  bool zeroes() const {
    uint64_t bytes = 0;
    for (const ByteSpan& span : spans_) {
      const char* data = at(wrong_, span.offset);
      if (std::any_of(data, data + span.length, [](char c) { return c != 0; })) return false;
      bytes += span.length;
    }
    return bytes >= k_zero_bytes;
  }

  std::optional<Writes::Found> elsewhere() const {
    for (const Unit& unit : units_) {
      const uint64_t there = hash_unit(at(wrong_, unit.offset));
      if (there == zero_unit_hash()) continue;
      return writes_.find(there, unit.offset);
    }
    return std::nullopt;
  }

  const Writes& writes_;
  const char* sides_[2];
  uint64_t offset_, length_;
  const std::vector<ByteSpan>& spans_;
  std::vector<Unit> units_;
  std::vector<const Writes::Write*> known_;  // that touch the range, the newest first
  const char* wrong_ = nullptr;
  const char* right_ = nullptr;
};

bool are_one(const Explanation& a, const Explanation& b) {
  if (a.damage != b.damage || a.suspect != b.suspect) return false;
  if (a.damage == Damage::misdirected) return a.version == b.version;
  return a.damage == Damage::zeroed || a.damage == Damage::other;
}

bool by_offset(const ByteSpan& a, const ByteSpan& b) {
  return a.offset < b.offset;
}

}  // namespace

const char* damage_name(Damage damage) {
  constexpr const char* k_names[k_damages] = {"stale",  "torn",     "misdirected",
                                              "zeroed", "bit_flip", "other"};
  return k_names[static_cast<int>(damage)];
}

const char* suspect_name(Explanation::Suspect suspect) {
  constexpr const char* k_names[] = {"test", "reference", "both", "unknown"};
  return k_names[suspect];
}

void add_span(std::vector<ByteSpan>& spans, uint64_t begin, uint64_t end) {
  if (!spans.empty() && spans.back().offset + spans.back().length == begin)
    spans.back().length = end - spans.back().offset;
  else
    spans.push_back({begin, end - begin});
}

std::vector<ByteSpan> differences(const char* a, const char* b, uint64_t offset, uint64_t length,
                                  uint64_t join) {
  constexpr uint64_t k_step = 64;
  std::vector<ByteSpan> spans;
  for (uint64_t i = 0; i < length;) {
    const uint64_t n = std::min(k_step, length - i);
    if (std::memcmp(a + i, b + i, n) == 0) {
      i += n;
      continue;
    }
    for (const uint64_t end = i + n; i < end; ++i) {
      if (a[i] == b[i]) continue;
      const uint64_t place = offset + i;
      if (!spans.empty() && place - (spans.back().offset + spans.back().length) < join)
        spans.back().length = place + 1 - spans.back().offset;
      else
        spans.push_back({place, 1});
    }
  }
  return spans;
}

void add_mishap(std::vector<Mishap>& all, Mishap one) {
  const auto like = std::find_if(all.begin(), all.end(),
                                 [&](const Mishap& other) { return are_one(other.why, one.why); });
  if (like == all.end()) return all.push_back(std::move(one));
  std::vector<ByteSpan> both = std::move(like->spans);
  both.insert(both.end(), one.spans.begin(), one.spans.end());
  std::sort(both.begin(), both.end(), by_offset);
  like->spans.clear();
  for (const ByteSpan& span : both) add_span(like->spans, span.offset, span.offset + span.length);
}

size_t Groups::of(const Writes::Write* write) {
  const auto found = std::find(known_.begin(), known_.end(), write);
  if (found != known_.end()) return static_cast<size_t>(found - known_.begin());
  if (known_.size() == k_max_mishaps) return k_max_mishaps - 1;
  known_.push_back(write);
  return known_.size() - 1;
}

std::vector<Mishap> explain(const Writes& writes, const char* test, const char* reference,
                            uint64_t offset, uint64_t length, const std::vector<ByteSpan>& spans,
                            Explanation::Suspect otherwise) {
  Look whole(writes, test, reference, offset, length, spans);
  std::vector<std::vector<ByteSpan>> groups = whole.by_write();
  if (groups.size() == 1) return {{whole.run(otherwise), std::move(groups.front())}};
  std::vector<Mishap> all;
  for (auto& group : groups) {
    const Explanation why = Look(writes, test, reference, offset, length, group).run(otherwise);
    add_mishap(all, {why, std::move(group)});
  }
  return all;
}

}  // namespace pv::blk
