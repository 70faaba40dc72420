// SPDX-License-Identifier: MIT
#include "vm/toml_tree.hpp"

// Version 3.3 asserts what it then handles: "[(" would end the process where without the assertion
// it is a syntax error. Exceptions end here; without them the parser goes on behind some mistakes.
#define TOML_ASSERT(condition) static_cast<void>(0)
#define TOML_EXCEPTIONS 1
#define TOML_HEADER_ONLY 1
#include <fmt/format.h>
#include <toml++/toml.h>

#include "base/text.hpp"

namespace pv::vm {
namespace {

TomlPlace place_of(const toml::source_region& region) {
  return {region.begin.line, region.begin.column};
}

// The parser bounds the depth of what it reads (TOML_MAX_NESTED_VALUES), and so the recursion.
TomlNode convert(const toml::node& from) {
  TomlNode node;
  node.place = place_of(from.source());
  if (const auto* text = from.as_string()) {
    node.type = TomlNode::Type::string;
    node.type_name = "string";
    node.text = text->get();
  } else if (const auto* number = from.as_integer()) {
    node.type = TomlNode::Type::integer;
    node.type_name = "number";
    node.number = number->get();
    node.octal = (number->flags() & toml::value_flags::format_as_octal) != toml::value_flags::none;
  } else if (const auto* boolean = from.as_boolean()) {
    node.type = TomlNode::Type::boolean;
    node.type_name = "boolean";
    node.number = boolean->get() ? 1 : 0;
  } else if (const auto* list = from.as_array()) {
    node.type = TomlNode::Type::list;
    node.type_name = "list";
    for (const toml::node& item : *list) node.items.push_back(convert(item));
  } else if (const auto* table = from.as_table()) {
    node.type = TomlNode::Type::table;
    node.type_name = "table";
    for (const auto& [key, value] : *table) {
      TomlNode& entry = node.items.emplace_back(convert(value));
      entry.name = std::string(key.str());
      entry.name_place = place_of(key.source());
    }
  } else {
    node.type_name = from.is_floating_point() ? "fraction" : "date or time";
  }
  return node;
}

}  // namespace

const TomlNode* TomlNode::find(std::string_view entry) const {
  for (const TomlNode& item : items)
    if (item.name == entry) return &item;
  return nullptr;
}

Error toml_error(const std::string& path, const TomlPlace& place, std::string_view problem) {
  return {Code::invalid,
          fmt::format("{}:{}:{}: {}", path, place.line, place.column, printable(problem))};
}

Result<TomlNode> parse_toml(std::string_view text, const std::string& path) {
  try {
    return convert(toml::parse(text));
  } catch (const toml::parse_error& error) {
    return fail(toml_error(path, place_of(error.source()), error.description()));
  }
}

}  // namespace pv::vm
