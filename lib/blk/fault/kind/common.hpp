// SPDX-License-Identifier: MIT
// What several kinds share.
#pragma once

#include <cstring>

#include <fmt/format.h>

#include "base/json.hpp"
#include "blk/fault/kinds.hpp"
#include "blk/fault/truth.hpp"
#include "blk/segments.hpp"

namespace pv::blk {

// The keys of a `do` object; its kind has been read.
inline Keys keys_of(const json& object) {
  Keys keys(object, "do");
  static_cast<void>(keys.raw("kind"));
  return keys;
}

// A part of the request, as it stands.
inline Step part(const Request& request, uint64_t from, uint64_t length) {
  Step step;
  step.op = request.op;
  step.offset = request.offset + from;
  step.length = length;
  step.from = from;
  return step;
}

inline uint64_t ms_to_ns(double ms) {
  return static_cast<uint64_t>(ms * static_cast<double>(k_ns_per_ms));
}

}  // namespace pv::blk
