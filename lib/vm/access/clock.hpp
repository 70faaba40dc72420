// SPDX-License-Identifier: MIT
// The guest's system clock, through its agent. Times are nanoseconds since 1970. Used by the
// commands.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/run_dir.hpp"

namespace pv::vm {

// 2070-01-01T00:00:00Z, in seconds since 1970: qemu-ga sets no later time (QEMU's
// qga/commands-posix.c).
constexpr uint64_t k_agents_end_s = 3'155'760'000;

// "-12.000000001" to nanoseconds, exactly: a sign, digits, at most nine decimals, and not beyond
// what 64 bits hold. Code::usage, with the words of `what`, for anything else ("nan", "1e3").
Result<int64_t> parse_seconds(std::string_view text, std::string_view what);

// The `clock` object of a document: t_ns, as a string, and host_t_ns. Code::unsupported when the
// guest's agent does not do it.
Result<json> read_clock(const Object& vm, const Deadline& deadline);
Result<json> set_clock(const Object& vm, int64_t t_ns, const Deadline& deadline);
// What it shows now, plus `delta_ns`, without the time that asking takes.
Result<json> advance_clock(const Object& vm, int64_t delta_ns, const Deadline& deadline);

}  // namespace pv::vm
