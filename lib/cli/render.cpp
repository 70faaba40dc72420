// SPDX-License-Identifier: MIT
// What a person at a terminal sees, made from the same document that a pipe would carry.
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/text.hpp"
#include "base/units.hpp"
#include "cli/document.hpp"

namespace pv::cli {
namespace {

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

// One value as a cell: units from the key's suffix, lists with commas, no quotes.
std::string cell(std::string_view key, const json& value) {
  if (value.is_null()) return "-";
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (value.is_number_unsigned() && ends_with(key, "_bytes"))
    return format_size(value.get<uint64_t>());
  if (value.is_number() && ends_with(key, "_ms"))
    return format_duration(static_cast<uint64_t>(value.get<double>() * 1e6));
  if (value.is_number_unsigned() && ends_with(key, "_ns"))
    return format_duration(value.get<uint64_t>());
  if (value.is_string()) return printable(value.get<std::string>());
  if (value.is_array()) {
    std::vector<std::string> parts;
    for (const json& item : value) parts.push_back(cell("", item));
    return parts.empty() ? "-" : join(parts, " ");
  }
  if (value.is_object()) {
    std::vector<std::string> parts;
    for (const auto& [name, inner] : value.items())
      if (!inner.is_null()) parts.push_back(fmt::format("{}={}", name, cell(name, inner)));
    return parts.empty() ? "-" : join(parts, " ");
  }
  return to_line(value);
}

std::string paint(std::string_view key, const std::string& text, bool colour) {
  if (!colour || key != "state") return text;
  const bool good = text.rfind("booted", 0) == 0 || text.rfind("attached", 0) == 0 ||
                    text.rfind("serving", 0) == 0;
  const bool bad = text.rfind("dead", 0) == 0;
  if (!good && !bad) return text;
  return fmt::format("\x1b[{}m{}\x1b[0m", good ? 32 : 31, text);
}

std::string heading(const std::string& text, bool colour) {
  return colour ? fmt::format("\x1b[1m{}\x1b[0m", text) : text;
}

// A guest command's result reads like the command itself had run here.
std::string render_run(const json& run) {
  std::string text = get_string(run, "stdout");
  const std::string err = get_string(run, "stderr");
  if (!err.empty()) text += err;
  if (!text.empty() && text.back() != '\n') text += '\n';
  if (const uint64_t status = get_u64(run, "exit_status"); status != 0)
    text += fmt::format("exit status {}\n", status);
  return text;
}

std::string render_block(const std::string& noun, const json& object, bool colour) {
  if (noun == "run") return render_run(object);
  if (!object.is_object()) return fmt::format("{} {}\n", noun, cell(noun, object));
  size_t width = 0;
  for (const auto& item : object.items()) width = std::max(width, item.key().size());
  std::string text = heading(noun, colour) + "\n";
  for (const auto& [key, value] : object.items()) {
    if (key == "console_tail") continue;
    text += fmt::format("  {:<{}}  {}\n", key, width, paint(key, cell(key, value), colour));
  }
  return text;
}

std::string render_table(const std::string& noun, const std::vector<json>& rows, bool colour) {
  std::vector<std::string> keys;
  for (const json& row : rows)
    for (const auto& item : row[noun].items())
      if (std::find(keys.begin(), keys.end(), item.key()) == keys.end() &&
          !(item.value().is_string() && item.value().get<std::string>().size() > 60))
        keys.push_back(item.key());
  std::vector<size_t> widths;
  std::vector<std::vector<std::string>> cells(rows.size());
  for (const std::string& key : keys) {
    size_t width = key.size();
    for (size_t i = 0; i < rows.size(); ++i) {
      const json* value = find(rows[i][noun], key);
      cells[i].push_back(value ? cell(key, *value) : "-");
      width = std::max(width, cells[i].back().size());
    }
    widths.push_back(width);
  }
  const auto line = [&](const std::vector<std::string>& row, bool head) {
    std::string text;
    for (size_t i = 0; i < keys.size(); ++i) {
      const std::string padded =
          i + 1 == keys.size() ? row[i] : fmt::format("{:<{}}  ", row[i], widths[i]);
      text += head ? heading(padded, colour) : paint(keys[i], padded, colour);
    }
    return text + "\n";
  };
  std::string text = line(keys, true);
  for (const auto& row : cells) text += line(row, false);
  return text;
}

}  // namespace

std::string render_text(const std::vector<json>& documents, bool colour) {
  std::string text;
  // Several documents about the same single thing are a table.
  std::string noun;
  bool same = documents.size() > 1;
  for (const json& document : documents) {
    std::string first;
    for (const auto& [key, value] : document.items())
      if (key != "v" && value.is_object() && first.empty()) first = key;
    if (noun.empty()) noun = first;
    same = same && !first.empty() && first == noun;
  }
  if (same) return render_table(noun, documents, colour);
  for (const json& document : documents)
    for (const auto& [key, value] : document.items())
      if (key != "v" && key != "error") text += render_block(key, value, colour);
  return text;
}

}  // namespace pv::cli
