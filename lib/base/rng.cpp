// SPDX-License-Identifier: MIT
#include "base/rng.hpp"

#include <sys/random.h>

#include "base/clock.hpp"

namespace pv {

uint64_t fresh_seed() {
  uint64_t seed = 0;
  if (getrandom(&seed, sizeof seed, 0) != static_cast<ssize_t>(sizeof seed))
    seed = mix(system_clock().wall_ns());
  return seed;
}

}  // namespace pv
