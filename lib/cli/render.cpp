// SPDX-License-Identifier: MIT
// What a person at a terminal sees, made from the same document that a pipe would carry.
#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "cli/document.hpp"

namespace pv::cli {
namespace {

constexpr size_t k_cell_width = 60;  // of a table; a block shows all of it
constexpr size_t k_console_lines = 10;

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

// On a screen: characters, not bytes.
size_t width_of(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::string padded(std::string text, size_t width) {
  const size_t now = width_of(text);
  return text.append(now < width ? width - now : 0, ' ');
}

// One cell of a table: one line, and cut where it would push the other columns off the screen.
std::string short_cell(std::string_view key, const json& value) {
  std::string text = cell(key, value);
  std::replace(text.begin(), text.end(), '\n', ' ');
  size_t characters = 0;
  size_t end = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    if ((text[at] & 0xc0) == 0x80) continue;
    if (++characters == k_cell_width) end = at;
    if (characters > k_cell_width) return text.substr(0, end) + "…";
  }
  return text;
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

std::string strip_returns(std::string_view text) {
  std::string out(text);
  out.erase(std::remove(out.begin(), out.end(), '\r'), out.end());
  return out;
}

bool is_list_of_objects(const json& value) {
  return value.is_array() && !value.empty() &&
         std::all_of(value.begin(), value.end(), [](const json& item) { return item.is_object(); });
}

std::string render_block(const std::string& noun, const json& object, bool colour) {
  if (noun == "run") return render_run(object);
  if (!object.is_object()) return fmt::format("{} {}\n", noun, cell(noun, object));
  size_t width = 0;
  for (const auto& item : object.items()) width = std::max(width, item.key().size());
  std::string text = heading(noun, colour) + "\n";
  for (const auto& [key, value] : object.items()) {
    if (key == "console_tail") continue;
    if (is_list_of_objects(value)) {
      text += fmt::format("  {}\n", key);
      for (const json& item : value) text += fmt::format("    {}\n", cell("", item));
    } else {
      text += fmt::format("  {:<{}}  {}\n", key, width, paint(key, cell(key, value), colour));
    }
  }
  return text;
}

std::string render_table(const std::string& noun, const std::vector<json>& rows, bool colour) {
  std::vector<std::string> keys;
  for (const json& row : rows)
    for (const auto& item : row[noun].items())
      if (std::find(keys.begin(), keys.end(), item.key()) == keys.end()) keys.push_back(item.key());
  std::vector<size_t> widths;
  std::vector<std::vector<std::string>> cells(rows.size());
  for (const std::string& key : keys) {
    size_t width = width_of(key);
    for (size_t i = 0; i < rows.size(); ++i) {
      const json* value = find(rows[i][noun], key);
      cells[i].push_back(value ? short_cell(key, *value) : "-");
      width = std::max(width, width_of(cells[i].back()));
    }
    widths.push_back(width);
  }
  const auto line = [&](const std::vector<std::string>& row, bool head) {
    std::string text;
    for (size_t i = 0; i < keys.size(); ++i) {
      const std::string one = i + 1 == keys.size() ? row[i] : padded(row[i], widths[i] + 2);
      text += head ? heading(one, colour) : paint(keys[i], one, colour);
    }
    return text + "\n";
  };
  std::string text = line(keys, true);
  for (const auto& row : cells) text += line(row, false);
  return text;
}

}  // namespace

std::string render_console(std::string_view console) {
  std::vector<std::string> lines;
  for (std::string& line : split(printable(strip_returns(console)), '\n'))
    if (line.find_first_not_of(" \t") != std::string::npos) lines.push_back(std::move(line));
  std::string text;
  for (size_t i = lines.size() - std::min(lines.size(), k_console_lines); i < lines.size(); ++i)
    text += (text.empty() ? "  " : "\n  ") + lines[i];
  return text;
}

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
