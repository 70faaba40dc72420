// SPDX-License-Identifier: MIT
// Reads the keys of one object of a rule. The first thing that is wrong is remembered and told by
// end(), which also finds keys that nobody has asked for; so a kind reads its keys in a row.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "base/json_fwd.hpp"
#include "base/result.hpp"

namespace pv::blk {

constexpr double k_max_ms = 24.0 * 3600 * 1000;  // of every time in a rule

// As the keys that end in _ms have it.
inline double ns_to_ms(uint64_t ns) {
  return static_cast<double>(ns) / static_cast<double>(k_ns_per_ms);
}

class Keys {
 public:
  // `what` is the object's name in messages ("do", "match"); both outlive this.
  Keys(const json& object, const char* what);

  bool has(std::string_view key);  // there and not null
  const json* raw(std::string_view key);
  uint64_t whole(std::string_view key, uint64_t fallback, uint64_t min = 0,
                 uint64_t max = UINT64_MAX);
  // A number or, as JSON readers round above 2^53, a string of digits.
  uint64_t seed(std::string_view key);
  double number(std::string_view key, double fallback, double min, double max);
  // A number of milliseconds, as nanoseconds; above 0 unless the fallback is used, at most a day.
  uint64_t ms(std::string_view key, uint64_t fallback_ns);
  bool flag(std::string_view key, bool fallback);
  std::string text(std::string_view key, std::string_view fallback);
  std::string name(std::string_view key);  // "" when it is not there, else checked
  // The index of the name that is there.
  size_t choice(std::string_view key, std::initializer_list<std::string_view> names,
                size_t fallback);
  // A list, or one element of it; nullptr when it is not there.
  const json* list(std::string_view key);

  void refuse(std::string message);
  bool good() const { return first_error_.empty(); }
  Result<> end();

 private:
  const json& object_;
  const char* what_;
  std::vector<std::string> asked_;
  std::string first_error_;
};

// The errno behind a name; Code::bad_rule with names that are good.
Result<int> parse_errno(const std::string& name);

}  // namespace pv::blk
