// SPDX-License-Identifier: MIT
#include "base/units.hpp"

#include <cctype>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include <fmt/format.h>

#include "base/text.hpp"

namespace pv {
namespace {

struct Unit {
  std::string_view name;
  double factor;
};

constexpr Unit k_sizes[] = {{"", 1.0},
                            {"b", 1.0},
                            {"k", 1024.0},
                            {"m", 1048576.0},
                            {"g", 1073741824.0},
                            {"t", 1099511627776.0},
                            {"p", 1125899906842624.0}};
constexpr Unit k_durations[] = {{"", 1e9},  {"ns", 1.0}, {"us", 1e3},   {"ms", 1e6},
                                {"s", 1e9}, {"m", 60e9}, {"min", 60e9}, {"h", 3600e9}};

// Splits "1.5GiB" into 1.5 and "gib"; false unless the text is a plain decimal number and letters.
bool split_number(std::string_view text, std::string& number, std::string& suffix) {
  size_t i = 0;
  int dots = 0;
  while (i < text.size() && (std::isdigit(static_cast<unsigned char>(text[i])) || text[i] == '.'))
    dots += text[i++] == '.';
  if (i == 0 || dots > 1 || text[0] == '.' || text[i - 1] == '.' || i > 24) return false;
  number = text.substr(0, i);
  for (char c : text.substr(i)) {
    if (!std::isalpha(static_cast<unsigned char>(c))) return false;
    suffix += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return true;
}

// The value times its unit as a whole number, or false: unknown unit, a fraction left, too large.
template <size_t N>
bool scale(const std::string& number, const std::string& suffix, const Unit (&units)[N],
           uint64_t& value) {
  for (const Unit& unit : units) {
    if (unit.name != suffix) continue;
    if (number.find('.') == std::string::npos) {
      char* end = nullptr;
      errno = 0;
      const unsigned long long whole = std::strtoull(number.c_str(), &end, 10);
      const auto factor = static_cast<uint64_t>(unit.factor);
      if (errno != 0 || whole > static_cast<uint64_t>(INT64_MAX) / factor) return false;
      value = whole * factor;
      return true;
    }
    const double scaled = std::strtod(number.c_str(), nullptr) * unit.factor;
    if (scaled > 9e18) return false;
    value = static_cast<uint64_t>(std::llround(scaled));
    return true;
  }
  return false;
}

}  // namespace

Result<uint64_t> parse_size(std::string_view text) {
  std::string number, suffix;
  uint64_t value = 0;
  bool good = split_number(text, number, suffix);
  if (suffix.size() == 3 && suffix.substr(1) == "ib") suffix.resize(1);
  if (suffix.size() == 2 && suffix[1] == 'b') suffix.resize(1);
  if (!good || !scale(number, suffix, k_sizes, value))
    return fail(Code::usage, fmt::format("'{}' is not a size (examples: 512, 64k, 1.5G)", text));
  return value;
}

Result<uint64_t> parse_duration(std::string_view text) {
  std::string number, suffix;
  uint64_t value = 0;
  if (!split_number(text, number, suffix) || !scale(number, suffix, k_durations, value))
    return fail(Code::usage,
                fmt::format("'{}' is not a duration (examples: 50ms, 2s, 1.5m)", text));
  return value;
}

Result<uint64_t> parse_count(std::string_view what, std::string_view text) {
  if (text.empty() || text.size() > 18 ||
      text.find_first_not_of("0123456789") != std::string_view::npos)
    return fail(Code::usage, fmt::format("{} '{}' is not a whole number", what, text));
  return std::stoull(std::string(text));
}

Result<uint64_t> parse_seed(std::string_view what, std::string_view text) {
  uint64_t seed = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, seed);
  if (error == std::errc{} && stop == end) return seed;
  return fail(Code::usage, fmt::format("{} '{}' is not a 64-bit number", what, printable(text)));
}

std::string format_size(uint64_t bytes) {
  constexpr const char* k_names[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(k_names)) {
    value /= 1024;
    ++unit;
  }
  if (value == std::floor(value)) return fmt::format("{:.0f} {}", value, k_names[unit]);
  return fmt::format("{:.1f} {}", value, k_names[unit]);
}

std::string format_duration(uint64_t ns) {
  const double value = static_cast<double>(ns);
  if (ns < 1000) return fmt::format("{} ns", ns);
  if (ns < 1'000'000) return fmt::format("{:.1f} us", value / 1e3);
  if (ns < 1'000'000'000) return fmt::format("{:.1f} ms", value / 1e6);
  return fmt::format("{:.2f} s", value / 1e9);
}

Result<> check_name(std::string_view what, std::string_view name) {
  const auto alnum = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; };
  bool good = !name.empty() && name.size() <= 64 && alnum(name[0]);
  for (char c : name) good = good && (alnum(c) || c == '.' || c == '_' || c == '-');
  if (good) return {};
  return fail(Code::usage,
              fmt::format("{} '{}' is not a name (letters, digits, '.', '_', '-'; at most 64)",
                          what, name));
}

}  // namespace pv
