// SPDX-License-Identifier: MIT
// Foreign bytes as text: strict JSON, base64, UTF-8.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.hpp"
#include "base/result.hpp"

namespace pv {

// One JSON value. Duplicate keys, more than 64 levels and trailing text are errors
// (Code::bad_document), because a later stage would read them differently.
Result<json> parse_json(std::string_view text);

// One line of compact JSON, without the newline. Bytes that are not UTF-8 become U+FFFD.
std::string to_line(const json& value);

std::string base64_encode(std::string_view bytes);
Result<std::string> base64_decode(std::string_view text);

bool is_utf8(std::string_view bytes);

// Sets object[key], and object[key + "_b64"] as well when the bytes are not UTF-8.
void set_text(json& object, const std::string& key, std::string_view bytes);

// A copy that is safe to print: control characters other than newline and tab as \xNN.
std::string printable(std::string_view text);

std::vector<std::string> split(std::string_view text, char separator);
std::string join(const std::vector<std::string>& parts, std::string_view separator);

// Typed access to keys of a foreign document: nullptr / fallback when absent or of another type.
const json* find(const json& object, std::string_view key);
std::string get_string(const json& object, std::string_view key, std::string_view fallback = "");
uint64_t get_u64(const json& object, std::string_view key, uint64_t fallback = 0);
bool get_bool(const json& object, std::string_view key, bool fallback = false);

}  // namespace pv
