// SPDX-License-Identifier: MIT
// If this fails, a server goes on for ever in a directory that was deleted, or ends in one that
// was not.

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "base/dir_guard.hpp"
#include "base/file.hpp"
#include "base/json.hpp"

using namespace pv;
using namespace pv::test;

TEST_CASE("a directory that is deleted or replaced is noticed once", "[base]") {
  const bool replaced = GENERATE(false, true);
  TempDir dir;
  const std::string path = dir.path("home"), spare = dir.path("spare");
  REQUIRE(make_dir(path));
  REQUIRE(make_dir(spare));
  ManualClock clock;
  ManualTimers timers(clock);
  int told = 0;
  DirGuard watch(timers, path, [&] { ++told; });
  for (int second = 0; second < 5; ++second) timers.advance_ns(k_ns_per_s);
  CHECK(told == 0);
  remove_tree(path);
  if (replaced) REQUIRE(rename(spare.c_str(), path.c_str()) == 0);
  for (int second = 0; second < 5; ++second) timers.advance_ns(k_ns_per_s);
  CHECK(told == 1);
  CHECK(timers.empty());
}

TEST_CASE("a watch that is gone looks no more", "[base]") {
  TempDir dir;
  ManualClock clock;
  ManualTimers timers(clock);
  {
    const DirGuard watch(timers, dir.path(), [] { FAIL("told"); });
  }
  CHECK(timers.empty());
}
