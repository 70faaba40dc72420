// SPDX-License-Identifier: MIT
// Which requests a rule is about: the `match` object. All that it names must hold.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "blk/fault/action.hpp"

namespace pv::blk {

struct Content {
  std::optional<uint64_t> at;  // bytes from the start of the data; else at any sector's start
  uint32_t sector = 512;
  std::string bytes;             // stand there
  std::optional<uint64_t> xxh3;  // of the whole data
};

struct Match {
  uint32_t ops = k_every_op;
  RangeSet ranges;      // empty and not `ranged`: every address
  bool ranged = false;  // stays when a rewrite has healed the last range
  uint32_t flags = 0;   // RequestFlags that it must have
  uint64_t min_bytes = 0, max_bytes = UINT64_MAX;
  uint64_t aligned_to = 0;    // offset and length are multiples of it; 0: any
  uint64_t unaligned_to = 0;  // offset or length is none; 0: any
  std::optional<Content> content;
  std::vector<uint32_t> connections;  // none: any
  std::optional<Front> front;

  bool covers(const Request& request) const {
    if ((ops & op_bit(request.op)) == 0) return false;
    if (ranged && (request.op == Op::flush || !ranges.touches(request.offset, request.length)))
      return false;
    return plain || covers_rest(request);
  }
  // Who has sent it.
  bool comes_from(const Request& request) const;
  // Operations and ranges are all there is.
  bool plain = true;

  json to_json() const;

 private:
  bool covers_rest(const Request& request) const;
};

// For a disk of this geometry. With `clip` a range that crosses the end is cut, else refused.
Result<Match> parse_match(const json& object, const Geometry& geometry, const Action& action,
                          bool clip);

}  // namespace pv::blk
