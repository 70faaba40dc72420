// SPDX-License-Identifier: MIT
// If this fails, a guest starts at another time than the one that was asked for.
#include <rapidcheck.h>

#include "../catch.hpp"
#include "base/clock.hpp"
#include "base/time_text.hpp"

using namespace pv;

TEST_CASE("time: seconds and fractions, exact to the nanosecond") {
  CHECK(parse_time("t", "0") == 0U);
  CHECK(parse_time("t", "1.5") == 1'500'000'000U);
  CHECK(parse_time("t", "1700000000.000000001") == 1'700'000'000'000'000'001U);
  CHECK(parse_time("t", "9223372035.999999999") == 9'223'372'035'999'999'999U);
}

TEST_CASE("time: RFC 3339, with offsets, leap years and leap seconds") {
  constexpr uint64_t k_s = k_ns_per_s;
  CHECK(parse_time("t", "1970-01-01T00:00:00Z") == 0U);
  CHECK(parse_time("t", "2023-11-14T22:13:20.25Z") == 1'700'000'000 * k_s + k_s / 4);
  CHECK(parse_time("t", "2023-11-14 23:13:20+01:00") == 1'700'000'000 * k_s);
  CHECK(parse_time("t", "2023-11-14t16:43:20-05:30") == 1'700'000'000 * k_s);
  CHECK(parse_time("t", "2024-02-29T00:00:00z") == 1'709'164'800 * k_s);
  CHECK(parse_time("t", "2016-12-31T23:59:60Z") == 1'483'228'800 * k_s);
}

TEST_CASE("time: everything else is a usage error that names it") {
  for (const char* bad : {"",
                          " ",
                          "nan",
                          "inf",
                          "-1",
                          "+1",
                          "1e9",
                          "0x10",
                          "1.",
                          ".5",
                          "1.0000000001",
                          "1,5",
                          "1s",
                          "9999999999999",
                          "9223372036854775807",
                          "99999999999",
                          "2023-11-14",
                          "2023-11-14T22:13:20",
                          "2023-11-14T22:13Z",
                          "2023-13-01T00:00:00Z",
                          "2023-02-29T00:00:00Z",
                          "2023-11-31T00:00:00Z",
                          "2023-11-14T24:00:00Z",
                          "2023-11-14T22:60:00Z",
                          "2023-11-14T22:13:61Z",
                          "1969-12-31T23:59:59Z",
                          "1970-01-01T00:00:00+01:00",
                          "2263-01-01T00:00:00Z",
                          "2023-11-14T22:13:20+24:00",
                          "2023-11-14T22:13:20Zx",
                          "now"}) {
    const auto parsed = parse_time("--initial-time", bad);
    CAPTURE(bad);
    REQUIRE_FALSE(parsed);
    CHECK(parsed.error().code == Code::usage);
    CHECK(parsed.error().message.rfind("--initial-time: ", 0) == 0);
  }
}

TEST_CASE("time: what utc_seconds prints is read as the same time") {
  rc::check([](uint32_t seconds) {
    const auto again = parse_time("t", utc_seconds(seconds) + "Z");
    RC_ASSERT(again.has_value());
    RC_ASSERT(*again == seconds * k_ns_per_s);
  });
}
