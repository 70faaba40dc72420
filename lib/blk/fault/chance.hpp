// SPDX-License-Identifier: MIT
// The chance of one match of a rule: pure functions of (seed, rule, match number, question), so the
// same requests with the same rule meet the same faults, whatever else happens.
#pragma once

#include <cmath>
#include <cstdint>
#include <string_view>

#include "base/rng.hpp"

namespace pv::blk {

class Chance {
 public:
  explicit Chance(uint64_t key) : key_(key) {}
  // The key of a rule; of(number) is the chance of one of its matches.
  static Chance of_rule(uint64_t seed, std::string_view id) {
    uint64_t hash = 0;
    for (char c : id) hash = mix(hash, static_cast<unsigned char>(c));
    return Chance(mix(seed, hash));
  }
  Chance of(uint64_t number) const { return Chance(mix(key_, number)); }

  uint64_t bits() const { return key_; }
  uint64_t bits(uint64_t question) const { return mix(key_, question); }
  uint64_t below(uint64_t question, uint64_t bound) const {
    return bound == 0 ? 0 : bits(question) % bound;
  }
  // Uniform in [0, 1).
  double unit() const { return std::ldexp(static_cast<double>(bits() >> 11), -53); }
  double unit(uint64_t question) const {
    return std::ldexp(static_cast<double>(bits(question) >> 11), -53);
  }

 private:
  uint64_t key_;
};

}  // namespace pv::blk
