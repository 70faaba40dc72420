// SPDX-License-Identifier: MIT
#include "cli/document.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/file.hpp"
#include "base/text.hpp"

namespace pv::cli {
namespace {

constexpr size_t k_max_document = 64 << 20;

}  // namespace

Result<json> read_document(int fd, std::string_view name) {
  auto text = read_all(fd, k_max_document, name);
  if (!text) return fail(Code::bad_document, text.error().message);
  const auto bad = [&](std::string_view problem) {
    return fail(Code::bad_document, fmt::format("{} {}", name, problem));
  };
  const size_t start = text->find_first_not_of(" \t\r\n");
  if (start == std::string::npos) return bad("is empty; expected one JSON document");
  auto document = parse_json(*text);
  if (!document) {
    // Two documents are the likely mistake of a loop in front of a pipe: say so.
    const size_t end = text->find('\n', start);
    const bool first_is_json = end != std::string::npos && parse_json(text->substr(0, end));
    if (first_is_json) return bad("holds more than one document; this command takes one");
    return bad("is " + document.error().message);
  }
  if (!document->is_object()) return bad("is not a JSON object");
  const json* version = find(*document, "v");
  if (!version) return bad("has no version key \"v\"");
  if (*version != k_document_version)
    return bad(fmt::format("has version {}; this program speaks {}", to_line(*version),
                           k_document_version));
  return document;
}

Result<std::string> select_field(const json& document, std::string_view field,
                                 std::string_view noun) {
  const auto walk = [&](const json* at) {
    for (const std::string& part : split(field, '.')) {
      if (!at) break;
      at = find(*at, part);
    }
    return at;
  };
  const json* value = walk(find(document, noun));
  if (!value) value = walk(&document);
  for (const auto& item : document.items())  // `pv-disk read -o xxh3`: in whichever part has it
    if (!value && item.value().is_object()) value = walk(&item.value());
  if (!value) {
    std::vector<std::string> known;
    if (const json* own = find(document, noun); own && own->is_object())
      for (const auto& item : own->items()) known.push_back(item.key());
    return fail(Code::usage, fmt::format("no field '{}' in the result (there are: {})", field,
                                         join(known, " ")));
  }
  return value->is_string() ? value->get<std::string>() : to_line(*value);
}

}  // namespace pv::cli
