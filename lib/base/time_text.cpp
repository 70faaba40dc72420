// SPDX-License-Identifier: MIT
#include "base/time_text.hpp"

#include <ctime>

#include <fmt/format.h>

#include "base/clock.hpp"
#include "base/text.hpp"

namespace pv {
namespace {

constexpr size_t k_decimals = 9;
constexpr uint64_t k_max_seconds = INT64_MAX / k_ns_per_s - 1;

// Takes a text apart from its front.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : rest_(text) {}
  bool done() const { return rest_.empty(); }

  bool skip(std::string_view any_of) {
    if (rest_.empty() || any_of.find(rest_[0]) == std::string_view::npos) return false;
    taken_ = rest_[0];
    rest_.remove_prefix(1);
    return true;
  }
  char taken() const { return taken_; }

  // Between `least` and `most` digits.
  bool number(size_t least, size_t most, uint64_t& value) {
    digits_ = 0;
    value = 0;
    while (digits_ < rest_.size() && rest_[digits_] >= '0' && rest_[digits_] <= '9') {
      if (++digits_ > most) return false;
      value = value * 10 + static_cast<uint64_t>(rest_[digits_ - 1] - '0');
    }
    if (digits_ < least) return false;
    rest_.remove_prefix(digits_);
    return true;
  }

  // ".5" as 500'000'000; nothing where there is no point.
  bool fraction(uint64_t& ns) {
    ns = 0;
    if (!skip(".")) return true;
    if (!number(1, k_decimals, ns)) return false;
    for (size_t i = digits_; i < k_decimals; ++i) ns *= 10;
    return true;
  }

 private:
  std::string_view rest_;
  size_t digits_ = 0;
  char taken_ = 0;
};

bool plain_seconds(std::string_view text, uint64_t& seconds, uint64_t& ns) {
  constexpr size_t k_most_digits = 12;
  Scanner scan(text);
  return scan.number(1, k_most_digits, seconds) && scan.fraction(ns) && scan.done();
}

// RFC 3339, section 5.6; a leap second is the first of the next minute.
bool calendar(std::string_view text, uint64_t& seconds, uint64_t& ns) {
  Scanner scan(text);
  uint64_t year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0;
  const bool read = scan.number(4, 4, year) && scan.skip("-") && scan.number(2, 2, month) &&
                    scan.skip("-") && scan.number(2, 2, day) && scan.skip("Tt ") &&
                    scan.number(2, 2, hour) && scan.skip(":") && scan.number(2, 2, minute) &&
                    scan.skip(":") && scan.number(2, 2, second) && scan.fraction(ns);
  if (!read || year < 1970 || hour > 23 || minute > 59 || second > 60) return false;
  std::tm date{};
  date.tm_year = static_cast<int>(year) - 1900;
  date.tm_mon = static_cast<int>(month) - 1;
  date.tm_mday = static_cast<int>(day);
  const std::time_t at = timegm(&date);
  // timegm() takes the 30th of February for the 2nd of March, and changes what it was given.
  if (at < 0 || date.tm_mon != static_cast<int>(month) - 1 || date.tm_mday != static_cast<int>(day))
    return false;
  auto total = static_cast<int64_t>(at) + static_cast<int64_t>(hour * 3600 + minute * 60 + second);
  if (!scan.skip("Zz")) {
    uint64_t off_hour = 0, off_minute = 0;
    if (!scan.skip("+-")) return false;
    const int64_t sign = scan.taken() == '+' ? -1 : 1;
    if (!scan.number(2, 2, off_hour) || !scan.skip(":") || !scan.number(2, 2, off_minute) ||
        off_hour > 23 || off_minute > 59)
      return false;
    total += sign * static_cast<int64_t>(off_hour * 3600 + off_minute * 60);
  }
  if (!scan.done() || total < 0) return false;
  seconds = static_cast<uint64_t>(total);
  return true;
}

}  // namespace

Result<uint64_t> parse_time(std::string_view what, std::string_view text) {
  uint64_t seconds = 0, ns = 0;
  if (!plain_seconds(text, seconds, ns) && !calendar(text, seconds, ns))
    return fail(Code::usage,
                fmt::format("{}: '{}' is neither seconds since 1970 with up to nine decimals nor a "
                            "time like 2023-11-14T22:13:20.5Z",
                            what, printable(text)));
  if (seconds > k_max_seconds)
    return fail(Code::usage, fmt::format("{}: '{}' is after the year 2262, where 64 bits of "
                                         "nanoseconds end",
                                         what, text));
  return seconds * k_ns_per_s + ns;
}

std::string utc_seconds(uint64_t seconds) {
  const auto at = static_cast<std::time_t>(seconds);
  std::tm date{};
  gmtime_r(&at, &date);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}", date.tm_year + 1900, date.tm_mon + 1,
                     date.tm_mday, date.tm_hour, date.tm_min, date.tm_sec);
}

}  // namespace pv
