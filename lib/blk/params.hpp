// SPDX-License-Identifier: MIT
// NAME:key=value,key=value, the form of --layer, with the keys that each layer declares.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace pv::blk {

struct ParamSpec {
  const char* key;
  const char* metavar;
  const char* help;
  // Paths are made absolute before a server starts; several are joined by '+'.
  enum Kind : uint8_t { text, path, paths } kind = text;
};

struct LayerSpec {
  std::string name;
  std::map<std::string, std::string> params;
};

// Splits the text; Code::usage when it is malformed or names a key twice. A comma in a value is
// written twice.
Result<LayerSpec> parse_layer(std::string_view text);

// Splits at single separators; a doubled one is one that belongs to a value. And back.
std::vector<std::string> split_doubled(std::string_view text, char separator);
std::string join_doubled(const std::vector<std::string>& parts, char separator);

// The text that parse_layer() takes.
std::string layer_text(const LayerSpec& layer);

// Code::usage with the valid keys when `params` has another one.
Result<> check_params(const LayerSpec& layer, std::span<const ParamSpec> known);

}  // namespace pv::blk
