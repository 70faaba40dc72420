// SPDX-License-Identifier: MIT
#include "blk/fault/kinds.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/text.hpp"

namespace pv::blk {
namespace {

const KindRow k_kinds[] = {
    {"error", "the request fails with an errno", "errno (a name, default EIO)", "the errno itself",
     "one of eight codes, else EIO", make_error_action},
    {"delay", "the request waits before it is looked at again", "delay_ms (number)", "full", "full",
     make_delay_action},
};

struct Shorthand {
  const char* mode;
  const char* op;  // nullptr: reads and writes
  const char* kind;
};

constexpr Shorthand k_shorthands[] = {
    {"eio_read", "read", "error"},
    {"eio_write", "write", "error"},
    {"slow", nullptr, "delay"},
};
constexpr int k_slow_ms = 50;

}  // namespace

std::span<const KindRow> fault_kinds() {
  return k_kinds;
}

std::optional<json> shorthand_rule(std::string_view mode) {
  for (const Shorthand& row : k_shorthands) {
    if (mode != row.mode) continue;
    json ops = row.op ? json::array({row.op}) : json::array({"read", "write"});
    json action = {{"kind", row.kind}};
    if (row.op)
      action["errno"] = "EIO";
    else
      action["delay_ms"] = k_slow_ms;
    return json{{"id", row.mode}, {"match", {{"op", ops}}}, {"do", action}};
  }
  return std::nullopt;
}

std::vector<std::string> valid_modes() {
  std::vector<std::string> names;
  for (const Shorthand& row : k_shorthands) names.emplace_back(row.mode);
  for (const KindRow& row : k_kinds) names.emplace_back(row.name);
  return names;
}

Result<> check_keys(const json& object, std::initializer_list<std::string_view> known,
                    std::string_view what) {
  if (!object.is_object()) return fail(Code::bad_rule, fmt::format("{} is not an object", what));
  for (const auto& item : object.items()) {
    if (std::find(known.begin(), known.end(), item.key()) != known.end()) continue;
    return fail(Error(Code::bad_rule, fmt::format("{} has no key '{}' (keys: {})", what, item.key(),
                                                  fmt::join(known, " ")))
                    .with("valid", std::vector<std::string>(known.begin(), known.end())));
  }
  return {};
}

}  // namespace pv::blk
