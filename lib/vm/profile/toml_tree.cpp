// SPDX-License-Identifier: MIT
#include "vm/profile/toml_tree.hpp"

#include <algorithm>
#include <optional>

#include <fmt/format.h>

// toml++ asserts what it then handles: "[(" would end the process where without the assertion it
// is a syntax error. Exceptions end here; without them the parser goes on behind some mistakes.
#define TOML_ASSERT(condition) static_cast<void>(0)
#define TOML_EXCEPTIONS 1
#define TOML_HEADER_ONLY 1
#include <toml++/toml.h>

#include "base/text.hpp"

namespace pv::vm {
namespace {

// The character that begins the text, or one byte that is none.
std::string_view first_character(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const size_t width = lead < 0xc0 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  return text.substr(0, is_utf8(text.substr(0, width)) ? width : 1);
}

// Where a blank may stand, toml++ looks the character up in a table that is undefined for letters
// such as U+00E9. So it sees none of them: what is beyond ASCII in plane 0 of Unicode is moved to
// the same place of a plane that the text has nothing in, and back in what comes out. A character
// stays one, and so lines and columns stay as they were.
class OtherPlane {
 public:
  // Of planes 4 to 13, where Unicode has no characters yet.
  static std::optional<OtherPlane> of(std::string_view text) {
    for (uint32_t plane = 4; plane <= 13; ++plane)
      if (const OtherPlane other(plane); !other.is_used_by(text)) return other;
    return std::nullopt;
  }

  // What is not UTF-8 stays so.
  std::string move(std::string_view text) const {
    constexpr std::string_view k_byte_order_mark = "\xef\xbb\xbf";
    std::string out;
    if (text.substr(0, k_byte_order_mark.size()) == k_byte_order_mark) out = k_byte_order_mark;
    for (size_t at = out.size(); at < text.size();) {
      const std::string_view character = first_character(text.substr(at));
      at += character.size();
      if (character.size() == 1 || character.size() == 4) {
        out += character;
        continue;
      }
      uint32_t number = static_cast<unsigned char>(character[0]) & (0x7fU >> character.size());
      for (const char c : character.substr(1)) number = number << 6 | (c & 0x3fU);
      out += {static_cast<char>(0xf0U | plane_ >> 2),
              static_cast<char>(k_more | (plane_ & 3) << 4 | number >> 12),
              static_cast<char>(k_more | (number >> 6 & 0x3f)),
              static_cast<char>(k_more | (number & 0x3f))};
    }
    return out;
  }

  std::string move_back(std::string_view text) const {
    std::string out;
    for (size_t at = 0; at < text.size();) {
      const std::string_view character = first_character(text.substr(at));
      at += character.size();
      if (!is_here(character)) {
        out += character;
        continue;
      }
      const auto byte = [&](size_t n) { return static_cast<unsigned char>(character[n]); };
      const unsigned high = byte(1) & 0xfU, middle = byte(2) & 0x3fU;
      if (high == 0 && middle < 0x20)
        out += static_cast<char>(0xc0U | middle);
      else
        out += {static_cast<char>(0xe0U | high), character[2]};
      out += character[3];
    }
    return out;
  }

  // In a message a character may be "\UXXXXXXXX", where "\uXXXX" was meant.
  std::string move_back_in_message(std::string_view text) const {
    std::string out = move_back(text);
    const std::string escape = fmt::format("\\U{:04X}", plane_);
    for (size_t at; (at = out.find(escape)) != std::string::npos;)
      out.replace(at, escape.size(), "\\u");
    return out;
  }

 private:
  static constexpr unsigned k_more = 0x80;  // the top of a byte that goes on with a character

  explicit OtherPlane(uint32_t plane) : plane_(plane) {}

  bool is_here(std::string_view character) const {
    return character.size() == 4 &&
           static_cast<unsigned char>(character[0]) == (0xf0U | plane_ >> 2) &&
           (static_cast<unsigned char>(character[1]) >> 4 & 3U) == (plane_ & 3U);
  }

  // As a character, or as an escape, which the parser makes one.
  bool is_used_by(std::string_view text) const {
    for (size_t at = 0; at < text.size();) {
      const std::string_view character = first_character(text.substr(at));
      if (is_here(character)) return true;
      at += character.size();
    }
    const std::string small = fmt::format("\\U{:04x}", plane_),
                      large = fmt::format("\\U{:04X}", plane_);
    return text.find(small) != text.npos || text.find(large) != text.npos;
  }

  uint32_t plane_;
};

TomlPlace place_of(const toml::source_region& region) {
  return {region.begin.line, region.begin.column};
}

// The parser bounds the depth of what it reads (TOML_MAX_NESTED_VALUES), and so the recursion.
TomlNode convert(const toml::node& from, const OtherPlane& plane) {
  TomlNode node;
  node.place = place_of(from.source());
  if (const auto* text = from.as_string()) {
    node.type = TomlNode::Type::string;
    node.type_name = "string";
    node.text = plane.move_back(text->get());
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
    for (const toml::node& item : *list) node.items.push_back(convert(item, plane));
  } else if (const auto* table = from.as_table()) {
    node.type = TomlNode::Type::table;
    node.type_name = "table";
    for (const auto& [key, value] : *table) {
      TomlNode& entry = node.items.emplace_back(convert(value, plane));
      entry.name = plane.move_back(key.str());
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
  const auto plane = OtherPlane::of(text);
  if (!plane) return fail(toml_error(path, {1, 1}, "it has characters in every plane of Unicode"));
  try {
    return convert(toml::parse(plane->move(text)), *plane);
  } catch (const toml::parse_error& error) {
    return fail(toml_error(path, place_of(error.source()),
                           plane->move_back_in_message(error.description())));
  }
}

}  // namespace pv::vm
