// SPDX-License-Identifier: MIT
// Chance with a seed. `mix` is stateless, so a decision can be a pure function of (seed, rule,
// match number); `Rng` walks the same function for callers that want a sequence.
#pragma once

#include <cstdint>

namespace pv {

// SplitMix64's finaliser: a bijection that spreads every input bit over the output.
constexpr uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

constexpr uint64_t mix(uint64_t a, uint64_t b) {
  return mix(mix(a) ^ b);
}

class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(seed) {}
  uint64_t next() { return mix(state_++); }
  uint64_t below(uint64_t bound) { return bound == 0 ? 0 : next() % bound; }

 private:
  uint64_t state_;
};

// A fresh seed from the kernel, for runs that were given none (they print it).
uint64_t fresh_seed();

}  // namespace pv
