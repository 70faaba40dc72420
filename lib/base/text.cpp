// SPDX-License-Identifier: MIT
#include "base/text.hpp"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "base/json.hpp"

namespace pv {
namespace {

constexpr int k_max_depth = 64;
constexpr char k_base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

int base64_value(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '+') return 62;
  if (c == '/') return 63;
  return -1;
}

// Length of the UTF-8 sequence that starts here; 0 when it is not one (RFC 3629, section 4).
size_t utf8_length(std::string_view s) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || s.size() < length) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  if (first == 0xe0 && byte(1) < 0xa0) return 0;  // overlong
  if (first == 0xed && byte(1) > 0x9f) return 0;  // surrogate
  if (first == 0xf0 && byte(1) < 0x90) return 0;  // overlong
  if (first == 0xf4 && byte(1) > 0x8f) return 0;  // above U+10FFFF
  return length;
}

}  // namespace

Result<json> parse_json(std::string_view text) {
  std::vector<std::set<std::string>> keys;
  std::string problem;
  const auto watch = [&](int depth, json::parse_event_t event, json& value) {
    if (depth > k_max_depth && problem.empty()) problem = "nested too deeply";
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end && !keys.empty()) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.empty() && problem.empty()) {
      const std::string key = value.get<std::string>();
      if (!keys.back().insert(key).second) problem = fmt::format("duplicate key '{}'", key);
    }
    return true;
  };
  // The depth is bounded before parsing, because a tree that is too deep costs stack to destroy.
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (in_string && text[i] == '\\')
      ++i;
    else if (text[i] == '"')
      in_string = !in_string;
    else if (!in_string && (text[i] == '{' || text[i] == '[') && ++depth > k_max_depth)
      return fail(Code::bad_document, "not valid JSON: nested too deeply");
    else if (!in_string && (text[i] == '}' || text[i] == ']'))
      --depth;
  }
  json value = json::parse(text, watch, /*allow_exceptions=*/false);
  if (value.is_discarded()) return fail(Code::bad_document, "not valid JSON");
  if (!problem.empty()) return fail(Code::bad_document, "bad JSON: " + problem);
  return value;
}

std::string to_line(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string base64_encode(std::string_view bytes) {
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t n = std::min<size_t>(3, bytes.size() - i);
    uint32_t group = 0;
    for (size_t j = 0; j < 3; ++j)
      group = group << 8 | (j < n ? static_cast<unsigned char>(bytes[i + j]) : 0U);
    for (size_t j = 0; j < 4; ++j) text += j <= n ? k_base64[group >> (18 - 6 * j) & 63] : '=';
  }
  return text;
}

Result<std::string> base64_decode(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3);
  if (text.size() % 4 != 0) return fail(Code::invalid, "not base64: wrong length");
  for (size_t i = 0; i < text.size(); i += 4) {
    uint32_t group = 0;
    size_t padding = 0;
    for (size_t j = 0; j < 4; ++j) {
      const bool pad = text[i + j] == '=' && i + 4 == text.size() && j >= 2;
      const int value = pad ? 0 : base64_value(text[i + j]);
      if (value < 0 || (padding != 0 && !pad)) return fail(Code::invalid, "not base64");
      padding += pad;
      group = group << 6 | static_cast<uint32_t>(value);
    }
    for (size_t j = 0; j < 3 - padding; ++j) bytes += static_cast<char>(group >> (16 - 8 * j));
  }
  return bytes;
}

bool is_utf8(std::string_view bytes) {
  while (!bytes.empty()) {
    const size_t length = utf8_length(bytes);
    if (length == 0) return false;
    bytes.remove_prefix(length);
  }
  return true;
}

void set_text(json& object, const std::string& key, std::string_view bytes) {
  object[key] = std::string(bytes);  // to_line() replaces what is not UTF-8
  if (!is_utf8(bytes)) object[key + "_b64"] = base64_encode(bytes);
}

std::string printable(std::string_view text) {
  std::string out;
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7f)
      out += fmt::format("\\x{:02x}", byte);
    else
      out += c;
  }
  return out;
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (true) {
    const size_t at = text.find(separator);
    parts.emplace_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  return fmt::format("{}", fmt::join(parts, separator));
}

const json* find(const json& object, std::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(std::string(key));
  return found == object.end() ? nullptr : &*found;
}

std::string get_string(const json& object, std::string_view key, std::string_view fallback) {
  const json* value = find(object, key);
  return value && value->is_string() ? value->get<std::string>() : std::string(fallback);
}

uint64_t get_u64(const json& object, std::string_view key, uint64_t fallback) {
  const json* value = find(object, key);
  if (!value || !value->is_number_integer()) return fallback;
  // A document that was made here, not parsed, holds small numbers as signed ones.
  if (!value->is_number_unsigned() && value->get<int64_t>() < 0) return fallback;
  return value->get<uint64_t>();
}

bool get_bool(const json& object, std::string_view key, bool fallback) {
  const json* value = find(object, key);
  return value && value->is_boolean() ? value->get<bool>() : fallback;
}

}  // namespace pv
