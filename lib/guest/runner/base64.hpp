// SPDX-License-Identifier: MIT
// base64 for a program without a C library.
#pragma once

#include <cstddef>

namespace runner {

constexpr const char* k_digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

// To `out`, which has room for four bytes for every three that begin; how many they are.
inline size_t encode(const char* bytes, size_t size, char* out) {
  char* to = out;
  for (size_t i = 0; i < size; i += 3) {
    unsigned group = 0;
    for (size_t k = 0; k < 3; ++k)
      group = group << 8 | (i + k < size ? static_cast<unsigned char>(bytes[i + k]) : 0U);
    for (int shift = 18; shift >= 0; shift -= 6) *to++ = k_digits[group >> shift & 63];
  }
  if (size % 3 != 0) to[-1] = '=';
  if (size % 3 == 1) to[-2] = '=';
  return static_cast<size_t>(to - out);
}

inline int digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

// In place, up to the first byte that is no digit; how many bytes came of it.
inline size_t decode(char* text) {
  char* to = text;
  unsigned bits = 0, held = 0;
  for (const char* from = text; digit(*from) >= 0; ++from) {
    held = held << 6 | static_cast<unsigned>(digit(*from));
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    *to++ = static_cast<char>(held >> bits);
  }
  return static_cast<size_t>(to - text);
}

}  // namespace runner
