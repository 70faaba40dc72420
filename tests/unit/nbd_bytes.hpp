// SPDX-License-Identifier: MIT
// Numbers, names and options as the NBD protocol writes them.
#pragma once

#include <cstdint>
#include <string>

#include "front/nbd/protocol.hpp"

namespace pv::test {

inline std::string be(uint64_t value, int bytes) {
  std::string out;
  for (int i = bytes - 1; i >= 0; --i) out += static_cast<char>(value >> (8 * i));
  return out;
}

inline std::string option(uint32_t number, const std::string& data) {
  return be(nbd::k_option_magic, 8) + be(number, 4) + be(data.size(), 4) + data;
}

inline std::string name(const std::string& text) {
  return be(text.size(), 4) + text;
}

}  // namespace pv::test
