// SPDX-License-Identifier: MIT
// Waits for requests that have to end.
#pragma once

#include <cstdio>
#include <cstdlib>

#include "base/loop.hpp"

namespace pv::test {

constexpr uint64_t k_patience_ms = 60'000;

// Ends the process: a test that just failed would take its requests along, while the disk still has
// them and writes to them later.
[[noreturn]] inline void lose_patience() {
  std::fputs("a request does not end\n", stderr);
  std::abort();
}

template <class Over>
void run_until(Loop& loop, const Over& over) {
  const Deadline deadline = Deadline::in_ms(k_patience_ms);
  while (!over())
    if (deadline.passed() || !loop.run_once(20)) lose_patience();
}

}  // namespace pv::test
