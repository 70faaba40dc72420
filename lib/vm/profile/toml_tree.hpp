// SPDX-License-Identifier: MIT
// A TOML document as a tree that knows where each of its values stands. The parser's header is
// large, so it is included by toml_tree.cpp alone.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace pv::vm {

struct TomlPlace {
  uint32_t line = 0;
  uint32_t column = 0;
};

struct TomlNode {
  enum class Type { string, integer, boolean, list, table, other };
  Type type = Type::other;
  std::string type_name;  // for messages: "integer", "date-time"
  TomlPlace place;
  TomlPlace name_place;         // of a table's entry
  std::string name;             // of a table's entry
  std::string text;             // string
  int64_t number = 0;           // integer, boolean
  bool octal = false;           // an integer written as 0o…
  std::vector<TomlNode> items;  // list, table

  const TomlNode* find(std::string_view entry) const;
};

// The root table. Code::invalid "FILE:LINE:COLUMN: …" for what is not TOML; `path` is that FILE.
Result<TomlNode> parse_toml(std::string_view text, const std::string& path);

// The same error for a text that is TOML, but not right.
Error toml_error(const std::string& path, const TomlPlace& place, std::string_view problem);

}  // namespace pv::vm
