// SPDX-License-Identifier: MIT
#include "blk/params.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"

namespace pv::blk {
std::vector<std::string> split_doubled(std::string_view text, char separator) {
  std::vector<std::string> parts(1);
  for (size_t i = 0; i < text.size(); ++i) {
    const bool here = text[i] == separator;
    if (here && i + 1 < text.size() && text[i + 1] == separator)
      parts.back() += text[++i];
    else if (here)
      parts.emplace_back();
    else
      parts.back() += text[i];
  }
  return parts;
}

std::string join_doubled(const std::vector<std::string>& parts, char separator) {
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i != 0) text += separator;
    for (const char c : parts[i]) text.append(c == separator ? 2 : 1, c);
  }
  return text;
}

Result<LayerSpec> parse_layer(std::string_view text) {
  LayerSpec layer;
  const size_t colon = text.find(':');
  layer.name = text.substr(0, colon);
  TRY(check_name("layer", layer.name));
  if (colon == std::string_view::npos) return layer;
  for (const std::string& pair : split_doubled(text.substr(colon + 1), ',')) {
    const size_t equals = pair.find('=');
    if (equals == std::string::npos || equals == 0)
      return fail(Code::usage, fmt::format("layer '{}': '{}' is not key=value", text, pair));
    if (!layer.params.emplace(pair.substr(0, equals), pair.substr(equals + 1)).second)
      return fail(Code::usage,
                  fmt::format("layer '{}': key '{}' twice", text, pair.substr(0, equals)));
  }
  return layer;
}

std::string layer_text(const LayerSpec& layer) {
  std::string text = layer.name;
  for (const auto& [key, value] : layer.params) {
    text += text.size() == layer.name.size() ? ':' : ',';
    text += key + "=" + join_doubled({value}, ',');
  }
  return text;
}

Result<> check_params(const LayerSpec& layer, std::span<const ParamSpec> known) {
  std::vector<std::string> names;
  for (const ParamSpec& spec : known) names.emplace_back(spec.key);
  for (const auto& [key, value] : layer.params) {
    if (std::find(names.begin(), names.end(), key) != names.end()) continue;
    return fail(Error(Code::usage, fmt::format("layer '{}' has no key '{}' (keys: {})", layer.name,
                                               key, names.empty() ? "none" : join(names, " ")))
                    .with("valid", names));
  }
  return {};
}

}  // namespace pv::blk
