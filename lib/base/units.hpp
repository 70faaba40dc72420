// SPDX-License-Identifier: MIT
// Sizes, durations and names as people type them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace pv {

// "512", "64k", "1.5G", "4KiB": bytes. Suffixes are powers of 1024 (k K M G T P, optional iB or B).
// Fractions are rounded to a byte. Negative, empty, and anything above 2^63-1: Code::usage.
Result<uint64_t> parse_size(std::string_view text);

// "50ms", "2s", "1.5m", "100us", "250ns", "1h"; a bare number is seconds. Nanoseconds.
Result<uint64_t> parse_duration(std::string_view text);

// A whole number below 10^18 without sign or unit; `what` starts the message.
Result<uint64_t> parse_count(std::string_view what, std::string_view text);

// Any 64-bit number, in decimal.
Result<uint64_t> parse_seed(std::string_view what, std::string_view text);

// "64 MiB", "512 B", "1.5 GiB".
std::string format_size(uint64_t bytes);

// "11.8 ms", "1.52 s".
std::string format_duration(uint64_t ns);

// Object names: [A-Za-z0-9][A-Za-z0-9._-]{0,63}. `what` starts the message.
Result<> check_name(std::string_view what, std::string_view name);

}  // namespace pv
