// SPDX-License-Identifier: MIT
#include "cli/document.hpp"

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"

namespace pv::cli {
namespace {

constexpr size_t k_max_document = 64 << 20;
constexpr const char* k_space = " \t\r\n";

tl::unexpected<Error> bad(std::string_view name, std::string_view problem) {
  return fail(Code::bad_document, fmt::format("{} {}", name, problem));
}

// What was read, with something in it.
Result<std::string> read_text(int fd, std::string_view name) {
  auto text = read_all(fd, k_max_document, name);
  if (!text) return fail(Code::bad_document, text.error().message);
  if (text->find_first_not_of(k_space) == std::string::npos)
    return bad(name, "is empty; expected one JSON document");
  return text;
}

Result<json> checked(json document, std::string_view name) {
  if (!document.is_object()) return bad(name, "is not a JSON object");
  const json* version = find(document, "v");
  if (!version) return bad(name, "has no version key \"v\"");
  if (*version != k_document_version)
    return bad(name, fmt::format("has version {}; this program speaks {}", to_line(*version),
                                 k_document_version));
  return document;
}

}  // namespace

Result<json> read_document(int fd, std::string_view name) {
  TRY_ASSIGN(const std::string text, read_text(fd, name));
  auto document = parse_json(text);
  if (document) return checked(std::move(*document), name);
  // Two documents are the likely mistake of a loop in front of a pipe: say so.
  const size_t start = text.find_first_not_of(k_space);
  const size_t end = text.find('\n', start);
  const bool first_is_json = end != std::string::npos && parse_json(text.substr(0, end));
  if (first_is_json) return bad(name, "holds more than one document; this command takes one");
  return bad(name, "is " + document.error().message);
}

Result<std::vector<Result<json>>> read_documents(int fd, std::string_view name) {
  TRY_ASSIGN(const std::string text, read_text(fd, name));
  std::vector<Result<json>> documents;
  auto whole = parse_json(text);
  if (whole) {
    documents.push_back(checked(std::move(*whole), name));
    return documents;
  }
  bool some_good = false;
  size_t number = 0;
  for (const std::string& line : split(text, '\n')) {
    ++number;
    if (line.find_first_not_of(k_space) == std::string::npos) continue;
    if (documents.size() == k_max_documents)
      return bad(name, fmt::format("holds more than {} documents", k_max_documents));
    const std::string where = fmt::format("{}, line {},", name, number);
    auto one = parse_json(line);
    some_good = some_good || (one && one->is_object());
    documents.push_back(one ? checked(std::move(*one), where)
                            : Result<json>(bad(where, "is " + one.error().message)));
  }
  if (!some_good) return bad(name, "is " + whole.error().message);
  return documents;
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
