// SPDX-License-Identifier: MIT
#include "blk/fault/keys.hpp"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"

namespace pv::blk {

Keys::Keys(const json& object, const char* what) : object_(object), what_(what) {
  if (!object.is_object()) refuse(fmt::format("{} is not an object", what));
}

void Keys::refuse(std::string message) {
  if (first_error_.empty()) first_error_ = std::move(message);
}

const json* Keys::raw(std::string_view key) {
  if (std::find(asked_.begin(), asked_.end(), key) == asked_.end()) asked_.emplace_back(key);
  const json* value = find(object_, key);
  return value != nullptr && value->is_null() ? nullptr : value;
}

bool Keys::has(std::string_view key) {
  return raw(key) != nullptr;
}

uint64_t Keys::whole(std::string_view key, uint64_t fallback, uint64_t min, uint64_t max) {
  const json* value = raw(key);
  if (value == nullptr) return fallback;
  const bool good = value->is_number_unsigned();
  const uint64_t number = good ? value->get<uint64_t>() : 0;
  if (!good || number < min || number > max) {
    std::string bounds = min != 0 ? fmt::format(" of at least {}", min) : "";
    if (max != UINT64_MAX) bounds += fmt::format(" up to {}", max);
    refuse(fmt::format("{}.{} is not a whole number{}", what_, key, bounds));
    return fallback;
  }
  return number;
}

uint64_t Keys::seed(std::string_view key) {
  const json* value = raw(key);
  if (value == nullptr) return 0;
  const std::string text = value->is_string() ? value->get<std::string>() : to_line(*value);
  errno = 0;
  const uint64_t number = std::strtoull(text.c_str(), nullptr, 10);
  if (errno != 0 || text.empty() || text.find_first_not_of("0123456789") != std::string::npos)
    refuse(fmt::format("{}.{} is not a 64-bit number (as a string)", what_, key));
  return number;
}

double Keys::number(std::string_view key, double fallback, double min, double max) {
  const json* value = raw(key);
  if (value == nullptr) return fallback;
  if (value->is_number()) {
    const auto number = value->get<double>();
    if (number >= min && number <= max) return number;
  }
  refuse(fmt::format("{}.{} is not a number from {} to {}", what_, key, min, max));
  return fallback;
}

uint64_t Keys::ms(std::string_view key, uint64_t fallback_ns) {
  const json* value = raw(key);
  if (value == nullptr) return fallback_ns;
  const double ms = value->is_number() ? value->get<double>() : -1;
  if (!(ms > 0) || ms > k_max_ms) {
    refuse(fmt::format("{}.{} must be a number above 0 and at most a day", what_, key));
    return fallback_ns;
  }
  return static_cast<uint64_t>(std::llround(ms * static_cast<double>(k_ns_per_ms)));
}

bool Keys::flag(std::string_view key, bool fallback) {
  const json* value = raw(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) refuse(fmt::format("{}.{} is not true or false", what_, key));
  return value->is_boolean() ? value->get<bool>() : fallback;
}

std::string Keys::text(std::string_view key, std::string_view fallback) {
  const json* value = raw(key);
  if (value == nullptr) return std::string(fallback);
  if (!value->is_string()) refuse(fmt::format("{}.{} is not a string", what_, key));
  return value->is_string() ? value->get<std::string>() : std::string(fallback);
}

std::string Keys::name(std::string_view key) {
  std::string text = this->text(key, "");
  if (!text.empty() && !check_name("name", text))
    refuse(fmt::format("{}.{}: '{}' is not a name", what_, key, text));
  return text;
}

size_t Keys::choice(std::string_view key, std::initializer_list<std::string_view> names,
                    size_t fallback) {
  const json* value = raw(key);
  if (value == nullptr) return fallback;
  size_t index = 0;
  for (const std::string_view name : names) {
    if (value->is_string() && value->get<std::string>() == name) return index;
    ++index;
  }
  refuse(
      fmt::format("{}.{} {} is none of {}", what_, key, to_line(*value), fmt::join(names, ", ")));
  return fallback;
}

const json* Keys::list(std::string_view key) {
  const json* value = raw(key);
  if (value == nullptr || value->is_array()) return value;
  refuse(fmt::format("{}.{} is not a list", what_, key));
  return nullptr;
}

Result<> Keys::end() {
  if (!first_error_.empty()) return fail(Code::bad_rule, first_error_);
  for (const auto& item : object_.items()) {
    if (std::find(asked_.begin(), asked_.end(), item.key()) != asked_.end()) continue;
    return fail(Error(Code::bad_rule, fmt::format("{} has no key '{}' (keys: {})", what_,
                                                  item.key(), fmt::join(asked_, " ")))
                    .with("valid", asked_));
  }
  return {};
}

Result<int> parse_errno(const std::string& name) {
  if (const int error = errno_from_name(name); error != 0) return error;
  constexpr int k_last_errno = 133;  // EHWPOISON, in include/uapi/asm-generic/errno.h
  std::vector<std::string> valid;
  for (int error = 1; error <= k_last_errno; ++error)
    if (errno_from_name(errno_name(error)) == error) valid.push_back(errno_name(error));
  const std::vector<std::string> usual = {"EIO",       "ENOSPC",    "EPERM",     "EROFS",
                                          "EINVAL",    "ENOMEM",    "EOVERFLOW", "ENOTSUP",
                                          "ESHUTDOWN", "ETIMEDOUT", "ENODEV",    "EBUSY"};
  return fail(Error(Code::bad_rule,
                    fmt::format("unknown errno '{}' (usual ones: {})", name, join(usual, " ")))
                  .with("valid", valid));
}

}  // namespace pv::blk
