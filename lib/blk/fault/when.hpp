// SPDX-License-Identifier: MIT
// At which of its matching requests a rule fires: the `when` object. Conditions (time, depth,
// state, marks) say whether a request counts as a match at all; after, every, times and chance pick
// among the matches by their number.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "base/json_fwd.hpp"
#include "base/result.hpp"

namespace pv::blk {

// What all rules of a disk share: its state, and which marks have come.
struct Scene {
  std::string state = "start";
  std::map<std::string, uint64_t> marks;  // name -> how often
  uint64_t in_flight = 0;                 // requests in the layer, this one included
  uint64_t marked(const std::string& name) const {
    const auto found = marks.find(name);
    return found == marks.end() ? 0 : found->second;
  }
};

struct When {
  uint64_t after = 0;             // matches that pass untouched first
  uint64_t every = 1;             // then every n-th match fires
  std::optional<uint64_t> times;  // at most so often
  double probability = 1;
  uint64_t seed = 0;
  uint64_t from_ns = 0, until_ns = UINT64_MAX;  // since the rule was added
  uint64_t up_ns = 0, down_ns = 0;              // a cycle within that; 0: none
  uint64_t min_in_flight = 0;
  std::string state;         // "": any
  std::string since, until;  // marks
  std::string on;            // each of these marks arms one firing

  // Whether anything but the match number counts.
  bool conditional() const { return conditional_; }
  // `age_ns`: since the rule was added. `fired`: how often it has.
  bool holds(const Scene& scene, uint64_t age_ns, uint64_t fired) const;
  json to_json() const;

  bool conditional_ = false;
};

Result<When> parse_when(const json& object);

}  // namespace pv::blk
