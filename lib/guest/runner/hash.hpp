// SPDX-License-Identifier: MIT
// XXH64 (the specification is doc/xxhash_spec.md of xxHash) of a part of a file: words of eight
// bytes and few instructions for each are what TCG does well, ten times as fast as md5sum.
#pragma once

#include "guest/runner/system.hpp"

namespace runner {

constexpr uint64_t k_prime1 = 0x9E3779B185EBCA87, k_prime2 = 0xC2B2AE3D27D4EB4F,
                   k_prime3 = 0x165667B19E3779F9, k_prime4 = 0x85EBCA77C2B2AE63,
                   k_prime5 = 0x27D4EB2F165667C5;
constexpr size_t k_stripe = 32;
constexpr size_t k_hash_piece = 64 << 10;
inline char hash_piece[k_hash_piece];

inline uint64_t turn(uint64_t value, int bits) {
  return value << bits | value >> (64 - bits);
}
inline uint64_t mix(uint64_t sum, uint64_t word) {
  return turn(sum + word * k_prime2, 31) * k_prime1;
}

struct Hash {
  uint64_t sums[4] = {k_prime1 + k_prime2, k_prime2, 0, 0 - k_prime1};
  uint64_t bytes = 0;

  // Whole stripes.
  void add(const char* from, size_t size) {
    uint64_t a = sums[0], b = sums[1], c = sums[2], d = sums[3];
    const auto* word = reinterpret_cast<const uint64_t*>(from);
    for (const auto* const end = word + size / 8; word < end; word += 4) {
      a = mix(a, word[0]);
      b = mix(b, word[1]);
      c = mix(c, word[2]);
      d = mix(d, word[3]);
    }
    sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d;
    bytes += size;
  }

  // With less than a stripe at the end.
  uint64_t finish(const char* rest, size_t size) {
    uint64_t sum = sums[2] + k_prime5;
    if (bytes > 0) {
      sum = turn(sums[0], 1) + turn(sums[1], 7) + turn(sums[2], 12) + turn(sums[3], 18);
      for (const uint64_t each : sums) sum = (sum ^ mix(0, each)) * k_prime1 + k_prime4;
    }
    sum += bytes + size;
    for (; size >= 8; size -= 8, rest += 8)
      sum = turn(sum ^ mix(0, *reinterpret_cast<const uint64_t*>(rest)), 27) * k_prime1 + k_prime4;
    if (size >= 4) {
      sum =
          turn(sum ^ *reinterpret_cast<const uint32_t*>(rest) * k_prime1, 23) * k_prime2 + k_prime3;
      size -= 4, rest += 4;
    }
    for (; size > 0; --size, ++rest)
      sum = turn(sum ^ static_cast<unsigned char>(*rest) * k_prime5, 11) * k_prime1;
    sum = (sum ^ sum >> 33) * k_prime2;
    sum = (sum ^ sum >> 29) * k_prime3;
    return sum ^ sum >> 32;
  }
};

// Of `size` bytes of standard input from `offset` on, or as many as there are; to standard output,
// behind `head` and in one piece, because others write there too. An exit status.
inline int print_hash(unsigned long offset, unsigned long size, const char* head) {
  call(__NR_lseek, 0, static_cast<long>(offset), 0);
  Hash hash;
  size_t held = 0;
  while (size > 0) {
    const size_t room = k_hash_piece - held;
    const long n = read_from(0, hash_piece + held, size < room ? size : room);
    if (n < 0) return 1;
    if (n == 0) break;
    size -= static_cast<size_t>(n);
    held += static_cast<size_t>(n);
    const size_t whole = held / k_stripe * k_stripe;
    hash.add(hash_piece, whole);
    for (size_t i = whole; i < held; ++i) hash_piece[i - whole] = hash_piece[i];
    held -= whole;
  }
  const uint64_t sum = hash.finish(hash_piece, held);
  if (length(head) > k_hash_piece / 2) return 1;
  char* to = put(put(hash_piece, head), " ");
  for (int shift = 60; shift >= 0; shift -= 4) *to++ = "0123456789abcdef"[sum >> shift & 15];
  *to++ = '\n';
  return write_to(1, hash_piece, static_cast<size_t>(to - hash_piece)) == to - hash_piece ? 0 : 1;
}

}  // namespace runner
