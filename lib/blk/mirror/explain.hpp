// SPDX-License-Identifier: MIT
// From two versions of the same bytes to what has happened: which of them is wrong, and in what
// way. Pure: looks at the bytes and at what was written lately, and changes nothing.
#pragma once

#include <utility>
#include <vector>

#include "blk/mirror/writes.hpp"

namespace pv::blk {

// What is wrong with a range.
enum class Damage : uint8_t { stale, torn, misdirected, zeroed, bit_flip, other };
constexpr int k_damages = 6;
const char* damage_name(Damage damage);

struct ByteSpan {
  uint64_t offset, length;
};

// One more, behind those that are there; it continues the last one where it can.
void add_span(std::vector<ByteSpan>& spans, uint64_t begin, uint64_t end);

// Where two ranges that begin at `offset` on the disk differ, in order; neighbours that are less
// than `join` equal bytes apart are one.
std::vector<ByteSpan> differences(const char* a, const char* b, uint64_t offset, uint64_t length,
                                  uint64_t join);

struct Explanation {
  Damage damage = Damage::other;
  // Which side holds other bytes than were written there last.
  enum Suspect : uint8_t { test, reference, both, unknown } suspect = unknown;
  // stale, torn: whose version is there; misdirected: who wrote these bytes, to `from`.
  const Writes::Write* version = nullptr;
  uint64_t from = 0;
};
const char* suspect_name(Explanation::Suspect suspect);

// One thing that has happened, and where.
struct Mishap {
  Explanation why;
  std::vector<ByteSpan> spans;
};
constexpr size_t k_max_mishaps = 16;  // of one request; the last one has all the rest
// Adds one, to those that look like the same event where there are such.
void add_mishap(std::vector<Mishap>& all, Mishap one);

// Numbers the writes that a request's damage belongs to, in the order of their first appearance.
class Groups {
 public:
  size_t of(const Writes::Write* write);

 private:
  std::vector<const Writes::Write*> known_;
};

// `spans` are the differences, not empty. `offset` and `length` are multiples of k_unit. Each write
// whose place is damaged has a mishap of its own, except where they look like one: zeroes, noise,
// one foreign write across several. Where the writes do not say who is wrong, it is `otherwise`.
std::vector<Mishap> explain(const Writes& writes, const char* test, const char* reference,
                            uint64_t offset, uint64_t length, const std::vector<ByteSpan>& spans,
                            Explanation::Suspect otherwise = Explanation::unknown);

}  // namespace pv::blk
