// SPDX-License-Identifier: MIT
// Numbers as the NBD protocol writes them.
#pragma once

#include <cstdint>
#include <string>

namespace pv::test {

inline std::string be(uint64_t value, int bytes) {
  std::string out;
  for (int i = bytes - 1; i >= 0; --i) out += static_cast<char>(value >> (8 * i));
  return out;
}

}  // namespace pv::test
