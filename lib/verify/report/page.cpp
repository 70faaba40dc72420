// SPDX-License-Identifier: MIT
#include "verify/report/page.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/text.hpp"
#include "base/units.hpp"

namespace pv::verify {
namespace {

constexpr size_t k_row = 8;
constexpr size_t k_max_ranges = 8;  // of one mismatch

std::string field(const json& object, const char* key) {
  const json* value = find(object, key);
  if (value == nullptr || value->is_null()) return "?";
  return printable(value->is_string() ? value->get<std::string>() : to_line(*value));
}

std::string seconds(uint64_t ns) {
  return fmt::format("{:.6f} s", static_cast<double>(ns) / 1e9);
}

std::string counts_line(const json& counts) {
  std::vector<std::string> words;
  for (const auto& item : counts.items())
    words.push_back(printable(item.key()) + " " + to_line(item.value()));
  return words.empty() ? "none" : join(words, ", ");
}

std::string writer_line(const json& writer) {
  if (!writer.is_object()) return "nobody since the comparison began";
  if (!get_bool(writer, "exact", true))
    return fmt::format("request {} or an earlier one, near there", field(writer, "number"));
  std::string line =
      fmt::format("request {}, {} {}+{} at {}, {}", field(writer, "number"), field(writer, "op"),
                  field(writer, "offset_bytes"), field(writer, "length_bytes"),
                  seconds(get_u64(writer, "t_ns")), field(writer, "status"));
  if (find(writer, "rule") != nullptr) line += ", fault rule " + field(writer, "rule");
  return line;
}

std::string ranges_line(const Case& one) {
  std::vector<std::string> words;
  for (size_t i = 0; i < std::min(one.ranges.size(), k_max_ranges); ++i)
    words.push_back(fmt::format("{}+{}", one.ranges[i].offset, one.ranges[i].length));
  std::string line = join(words, " ");
  if (one.ranges.size() > words.size()) line += " ...";
  return line;
}

std::string case_text(const Case& one, const PageOptions& options) {
  const json& finding = *one.finding;
  std::string text =
      fmt::format("\n#{} {} at {}, suspect: {}\n", field(finding, "n"), field(finding, "class"),
                  seconds(get_u64(finding, "t_ns")), field(finding, "suspect"));
  text += "  differs      " + ranges_line(one) + "\n";
  if (const json* request = find(finding, "request"))
    text += fmt::format("  seen by      request {}, {} {}+{}\n", field(*request, "number"),
                        field(*request, "op"), field(*request, "offset_bytes"),
                        field(*request, "length_bytes"));
  if (const json* from = find(finding, "from"))
    text += fmt::format("  belongs to   {}\n", field(*from, "offset_bytes"));
  if (const json* writers = find(finding, "last_writer"); writers && writers->is_object()) {
    for (const char* side : {"test", "reference"})
      if (const json* writer = find(*writers, side))
        text += fmt::format("  last writer  {}: {}\n", side, writer_line(*writer));
  }
  std::string rules = printable(join(one.rules, " "));
  text += "  faults       " + (rules.empty() ? std::string("none explains it") : rules) + "\n";
  const json* excerpt = find(finding, "excerpt");
  if (!options.hex || excerpt == nullptr) return text;
  const auto test = base64_decode(get_string(*excerpt, "test_b64"));
  const auto reference = base64_decode(get_string(*excerpt, "reference_b64"));
  if (test && reference)
    text += hex_lines(get_u64(*excerpt, "offset_bytes"), *test, *reference, options.colour);
  return text;
}

std::string part(const json& finding, const char* object, const char* key) {
  const json* inside = find(finding, object);
  return inside != nullptr ? field(*inside, key) : "?";
}

// Requests that ended differently on the two legs.
std::string status_table(const std::vector<const json*>& all, size_t max) {
  if (all.empty()) return "";
  constexpr const char* k_line = "{:>8} {:>8} {:<8} {:<24} {:<12} {:<12} {}\n";
  std::string text = "\nstatuses that differ\n" + fmt::format(k_line, "n", "request", "op", "range",
                                                              "test", "reference", "rule");
  for (size_t i = 0; i < std::min(all.size(), max); ++i) {
    const json& finding = *all[i];
    const std::string rule = part(finding, "rule", "id");
    text += fmt::format(
        k_line, field(finding, "n"), part(finding, "request", "number"),
        part(finding, "request", "op"),
        part(finding, "request", "offset_bytes") + "+" + part(finding, "request", "length_bytes"),
        part(finding, "status", "test"), part(finding, "status", "reference"),
        rule == "?" ? "-" : rule);
  }
  if (all.size() > max) text += fmt::format("... and {} more\n", all.size() - max);
  return text;
}

char shown(char c) {
  return c >= ' ' && c <= '~' ? c : '.';
}

// One side of one line; `other` decides what differs.
std::string half_line(std::string_view mine, std::string_view other, bool colour) {
  std::string bytes, text;
  for (size_t i = 0; i < k_row; ++i) {
    if (i >= mine.size()) {
      bytes += "   ";
      text += ' ';
      continue;
    }
    const bool differs = i >= other.size() || mine[i] != other[i];
    const std::string byte = fmt::format("{:02x}", static_cast<uint8_t>(mine[i]));
    bytes += differs ? "*" : " ";
    bytes += differs && colour ? "\x1b[7m" + byte + "\x1b[0m" : byte;
    text += shown(mine[i]);
  }
  return bytes + "  |" + text + "|";
}

}  // namespace

std::string hex_lines(uint64_t offset, const std::string& a, const std::string& b, bool colour) {
  std::string lines = fmt::format("  {:>12}  {:<37} {}\n", "", "test", "reference");
  const std::string_view test(a), reference(b);
  for (size_t at = 0; at < std::max(a.size(), b.size()); at += k_row) {
    const std::string_view left = at < a.size() ? test.substr(at, k_row) : "";
    const std::string_view right = at < b.size() ? reference.substr(at, k_row) : "";
    lines += fmt::format("  {:012x} {}  {}\n", offset + at, half_line(left, right, colour),
                         half_line(right, left, colour));
  }
  return lines;
}

std::string report_page(const ReportInput& input, const std::vector<Case>& all, const json& verdict,
                        const PageOptions& options) {
  std::string text = fmt::format("{}: {}\n", printable(input.disk), field(verdict, "verdict"));
  text += fmt::format("mismatches   {} ({} explained by faults), {} bytes in {} ranges\n",
                      all.size(), field(verdict, "explained"), field(verdict, "different_bytes"),
                      field(verdict, "ranges_total"));
  text += "classes      " + counts_line(verdict["by_class"]) + "\n";
  text += "suspects     " + counts_line(verdict["by_suspect"]) + "\n";
  text += "rules        " + counts_line(verdict["by_rule"]) + "\n";
  text += fmt::format("statuses     {} differ, {} more because of a fault\n",
                      field(verdict, "status_differences"),
                      field(verdict, "status_differences_by_rule"));
  if (input.left_out_bytes != 0)
    text += fmt::format("left out     {} bytes are not compared\n", input.left_out_bytes);
  if (input.reference_changed)
    text += "reference    changed by somebody else while it was mirrored\n";
  if (!input.broken.empty())
    text += fmt::format("broken       {}: nothing is compared any more\n", printable(input.broken));
  if (input.dropped != 0) text += fmt::format("dropped      {} older findings\n", input.dropped);
  text += status_table(status_findings(input), options.max);
  for (size_t i = 0; i < std::min(all.size(), options.max); ++i) text += case_text(all[i], options);
  if (all.size() > options.max)
    text += fmt::format("\n... and {} more\n", all.size() - options.max);
  return text;
}

}  // namespace pv::verify
