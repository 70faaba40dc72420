// SPDX-License-Identifier: MIT
// What WireFault::how means: where a connection is cut, and which rule of the protocol an answer
// breaks. Shared by the kinds `disconnect` and `violate` and by the front end that does it.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>

namespace pv::blk {

// From `greeting` on it is about new connections, and no request matches.
enum class HangUp : uint8_t { request, before_reply, reply, greeting, options, exported };
inline const std::initializer_list<std::string_view> k_hang_up_names = {
    "request", "before_reply", "reply", "greeting", "options", "export"};

// From `chunk_type` to `missing_data` it takes structured replies.
enum class Violation : uint8_t {
  magic,
  cookie,
  error_code,
  chunk_type,
  chunk_length,
  missing_data,
  twice,
  garbage
};
inline const std::initializer_list<std::string_view> k_violation_names = {
    "magic",        "cookie",       "error_code", "chunk_type",
    "chunk_length", "missing_data", "twice",      "garbage"};

inline std::string_view name_of(HangUp at) {
  return k_hang_up_names.begin()[static_cast<size_t>(at)];
}
inline std::string_view name_of(Violation what) {
  return k_violation_names.begin()[static_cast<size_t>(what)];
}

}  // namespace pv::blk
