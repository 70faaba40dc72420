// SPDX-License-Identifier: MIT
// Points in time as people type them, to the nanosecond and without floating point on the way.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace pv {

// Seconds since 1970-01-01T00:00:00Z with up to nine decimals ("1700000000.000000001"), or RFC 3339
// ("2023-11-14T22:13:20.5Z", "2023-11-14 23:13:20+01:00"). Nanoseconds since then. Code::usage for
// anything else, for a time before 1970 and for one that does not fit into 63 bits (the year 2262).
Result<uint64_t> parse_time(std::string_view what, std::string_view text);

// "2023-11-14T22:13:20": UTC, whole seconds.
std::string utc_seconds(uint64_t seconds);

}  // namespace pv
