// SPDX-License-Identifier: MIT
#include "blk/tune.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"

namespace pv::blk {

bool tunes(const json& request, std::string_view name) {
  return get_string(request, "op") == "layer.set" && get_string(request, "layer") == name;
}

Result<std::map<std::string, std::string>> tune_params(const json& request,
                                                       std::initializer_list<const char*> keys) {
  const std::string name = get_string(request, "layer");
  const std::vector<std::string> valid(keys.begin(), keys.end());
  const json* given = find(request, "params");
  if (given == nullptr || !given->is_object() || given->empty())
    return fail(Code::usage, fmt::format("layer '{}': nothing to set", name));
  std::map<std::string, std::string> params;
  for (const auto& [key, value] : given->items()) {
    if (std::find(valid.begin(), valid.end(), key) == valid.end())
      return fail(
          Error(Code::usage, fmt::format("layer '{}' has no key '{}' that can change while it runs "
                                         "(keys: {})",
                                         name, key, join(valid, " ")))
              .with("valid", valid));
    if (!value.is_string())
      return fail(Code::usage, fmt::format("layer '{}': the value of {} is no text", name, key));
    params[key] = value.get<std::string>();
  }
  return params;
}

}  // namespace pv::blk
