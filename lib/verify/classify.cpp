// SPDX-License-Identifier: MIT
#include "verify/classify.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace pv::verify {
namespace {

constexpr uint64_t k_bits_per_flip = 128;  // at most one in so many, and one in any case

// Calls `each` with begin and end of every stretch that lies in one sector; stops at false.
template <class Each>
bool for_units(uint64_t offset, size_t length, const Each& each) {
  for (size_t begin = 0; begin < length;) {
    const size_t end = std::min<size_t>(length, begin + k_unit - (offset + begin) % k_unit);
    if (!each(begin, end)) return false;
    begin = end;
  }
  return true;
}

// Every sector is either as expected or as in `before`. (Both kinds are there, or it would have
// been something else.)
bool is_torn(uint64_t offset, std::string_view expected, std::string_view actual,
             std::string_view before) {
  return for_units(offset, actual.size(), [&](size_t begin, size_t end) {
    const std::string_view unit = actual.substr(begin, end - begin);
    return unit == expected.substr(begin, end - begin) || unit == before.substr(begin, end - begin);
  });
}

bool is_torn_to_zeroes(uint64_t offset, std::string_view expected, std::string_view actual) {
  return for_units(offset, actual.size(), [&](size_t begin, size_t end) {
    const std::string_view unit = actual.substr(begin, end - begin);
    return unit == expected.substr(begin, end - begin) || all_zero(unit);
  });
}

size_t find_equal(std::span<const std::string_view> candidates, std::string_view actual) {
  const auto found = std::find(candidates.begin(), candidates.end(), actual);
  return found == candidates.end() ? SIZE_MAX : static_cast<size_t>(found - candidates.begin());
}

// Of one sector the rest must still be right to tell: half a sector of zeroes is torn into nothing.
bool has_right_unit(uint64_t offset, std::string_view expected, std::string_view actual) {
  return !for_units(offset, actual.size(), [&](size_t begin, size_t end) {
    return actual.substr(begin, end - begin) != expected.substr(begin, end - begin);
  });
}

}  // namespace

const char* damage_name(Damage damage) {
  constexpr const char* k_names[] = {"none", "stale",    "zeroed", "misdirected",
                                     "torn", "bit_flip", "other"};
  return k_names[static_cast<size_t>(damage)];
}

uint64_t differing_bits(std::string_view a, std::string_view b) {
  uint64_t bits = 0;
  for (size_t at = 0; at < a.size();) {
    const size_t n = std::min(sizeof(uint64_t), a.size() - at);
    uint64_t x = 0, y = 0;
    std::memcpy(&x, a.data() + at, n);
    std::memcpy(&y, b.data() + at, n);
    bits += static_cast<uint64_t>(std::popcount(x ^ y));
    at += n;
  }
  return bits;
}

bool all_zero(std::string_view bytes) {
  return bytes.empty() ||
         (bytes[0] == 0 && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

Verdict classify(uint64_t offset, std::string_view expected, std::string_view actual,
                 std::span<const std::string_view> older,
                 std::span<const std::string_view> elsewhere) {
  Verdict verdict;
  if (expected.size() != actual.size()) return {Damage::other, SIZE_MAX, 0, 0};
  if (expected == actual) return verdict;
  verdict.bits = differing_bits(expected, actual);
  for_units(offset, actual.size(), [&](size_t begin, size_t end) {
    verdict.units += actual.substr(begin, end - begin) != expected.substr(begin, end - begin);
    return true;
  });
  const auto is = [&](Damage damage, size_t candidate = SIZE_MAX) {
    verdict.damage = damage;
    verdict.candidate = candidate;
    return verdict;
  };
  if (const size_t i = find_equal(older, actual); i != SIZE_MAX) return is(Damage::stale, i);
  if (all_zero(actual)) return is(Damage::zeroed);
  if (const size_t i = find_equal(elsewhere, actual); i != SIZE_MAX)
    return is(Damage::misdirected, i);
  if (has_right_unit(offset, expected, actual)) {
    for (size_t i = 0; i < older.size(); ++i)
      if (older[i].size() == actual.size() && is_torn(offset, expected, actual, older[i]))
        return is(Damage::torn, i);
    if (is_torn_to_zeroes(offset, expected, actual)) return is(Damage::torn);
  }
  const uint64_t flips = std::max<uint64_t>(1, 8 * actual.size() / k_bits_per_flip);
  return is(verdict.bits <= flips ? Damage::bit_flip : Damage::other);
}

}  // namespace pv::verify
