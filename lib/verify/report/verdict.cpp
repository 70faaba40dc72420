// SPDX-License-Identifier: MIT
#include "verify/report/verdict.hpp"

#include <algorithm>
#include <map>
#include <utility>

#include "base/clock.hpp"
#include "base/text.hpp"

namespace pv::verify {
namespace {

constexpr uint64_t k_max_offset = uint64_t{1} << 62;
constexpr size_t k_max_rows = 64;
constexpr uint64_t k_slack_ns = 5 * k_ns_per_ms;  // between the clocks of two layers

const json k_nothing = json::object();

const json& part(const json& object, const char* key) {
  const json* found = find(object, key);
  return found != nullptr && found->is_object() ? *found : k_nothing;
}

std::string suspect_of(const json& finding) {
  const std::string suspect = get_string(finding, "suspect");
  return suspect == "reference" ? "reference" : "test";
}

void add_range(std::vector<Range>& ranges, const json& object) {
  const Range range = range_of(object);
  if (range.length != 0) ranges.push_back(range);
}

std::vector<Range> ranges_of(const json& finding) {
  std::vector<Range> ranges;
  if (const json* rows = find(finding, "ranges"); rows != nullptr && rows->is_array())
    for (const json& row : *rows) add_range(ranges, row);
  return ranges;
}

// Where to look for a cause: the bytes themselves, and where they were meant to be.
std::vector<Range> places_of(const json& finding, std::vector<Range> ranges) {
  const uint64_t length = ranges.empty() ? 0 : ranges.back().end() - ranges.front().offset;
  if (const json* from = find(finding, "from"))
    ranges.push_back({std::min(get_u64(*from, "offset_bytes"), k_max_offset), length});
  return ranges;
}

void add_rule(std::vector<std::string>& rules, const std::string& rule) {
  if (!rule.empty() && std::find(rules.begin(), rules.end(), rule) == rules.end())
    rules.push_back(rule);
}

// What the finding itself says of rules.
void add_named(Case& one) {
  const json& finding = *one.finding;
  add_rule(one.rules, get_string(part(finding, "rule"), "id"));
  add_rule(one.rules, get_string(part(finding, "version"), "rule"));
  add_rule(one.rules,
           get_string(part(part(finding, "last_writer"), suspect_of(finding).c_str()), "rule"));
}

// A change that was made well by a later one explains nothing, unless it landed after that.
bool made_good(const json& event, uint64_t event_ns, uint64_t last_write_ns) {
  const std::string kind = get_string(event, "kind");
  return get_string(event, "op") != "read" && event_ns + k_slack_ns < last_write_ns &&
         kind != "late_write" && kind != "duplicate_write";
}

void add_events(Case& one, const ReportInput& input) {
  const std::vector<Range> places = places_of(*one.finding, one.ranges);
  const uint64_t until = input.findings_began_ns + get_u64(*one.finding, "t_ns") + k_slack_ns;
  const json& writer = part(part(*one.finding, "last_writer"), suspect_of(*one.finding).c_str());
  const uint64_t written = input.findings_began_ns + get_u64(writer, "t_ns");
  for (size_t i = input.faults.size(); i-- > 0 && one.faults.size() < k_max_faults;) {
    const json& event = input.faults[i];
    const Range range = range_of(event);
    const uint64_t event_ns = input.faults_began_ns + get_u64(event, "t_ns");
    if (event_ns > until || made_good(event, event_ns, written)) continue;
    const bool here = std::any_of(places.begin(), places.end(),
                                  [&](const Range& place) { return place.touches(range); });
    // A rule that only delays changes nothing.
    if (!here || find(event, "delay_ms") != nullptr) continue;
    one.faults.push_back(&event);
    add_rule(one.rules, get_string(event, "rule"));
  }
}

struct Counts {
  std::map<std::string, uint64_t> by_class, by_suspect, by_rule;
  uint64_t bytes = 0, explained = 0, statuses = 0, known_statuses = 0;
  uint64_t outside = 0,
           outside_statuses = 0;  // not explained by a fault, but by who has changed the reference
};

void count_case(const Case& one, Counts& counts) {
  ++counts.by_class[get_string(*one.finding, "class", "other")];
  ++counts.by_suspect[get_string(*one.finding, "suspect", "unknown")];
  counts.bytes += get_u64(*one.finding, "different_bytes");
  if (!one.rules.empty())
    ++counts.explained;
  else if (get_bool(*one.finding, "reference_changed_outside") &&
           suspect_of(*one.finding) == "reference")
    ++counts.outside;
  for (const std::string& rule : one.rules) ++counts.by_rule[rule];
}

void count_statuses(const ReportInput& input, Counts& counts) {
  for (const json* finding : status_findings(input)) {
    const bool known = find(*finding, "policy") == nullptr;
    if (!known && get_bool(*finding, "reference_changed_outside") &&
        get_string(part(*finding, "status"), "reference") != "OK")
      ++counts.outside_statuses;
    ++(known ? counts.known_statuses : counts.statuses);
  }
}

// Ranges that touch are one; each says how many mismatches saw it.
json merged_ranges(const std::vector<Case>& all, uint64_t& total) {
  struct Seen {
    Range range;
    uint64_t mismatches;
  };
  std::vector<Seen> seen;
  for (const Case& one : all)
    for (const Range& range : one.ranges) seen.push_back({range, 1});
  std::sort(seen.begin(), seen.end(),
            [](const Seen& a, const Seen& b) { return a.range.offset < b.range.offset; });
  std::vector<Seen> merged;
  for (const Seen& next : seen) {
    if (merged.empty() || next.range.offset > merged.back().range.end()) {
      merged.push_back(next);
      continue;
    }
    Seen& last = merged.back();
    last.range.length = std::max(last.range.end(), next.range.end()) - last.range.offset;
    ++last.mismatches;
  }
  total = merged.size();
  json rows = json::array();
  for (size_t i = 0; i < std::min(merged.size(), k_max_rows); ++i)
    rows.push_back({{"offset_bytes", merged[i].range.offset},
                    {"length_bytes", merged[i].range.length},
                    {"mismatches", merged[i].mismatches}});
  return rows;
}

// Who wrote last where something is wrong now, by request.
json last_writers(const std::vector<Case>& all) {
  std::map<uint64_t, std::pair<const json*, uint64_t>> writers;
  for (const Case& one : all) {
    const json& writer = part(part(*one.finding, "last_writer"), suspect_of(*one.finding).c_str());
    if (writer.empty()) continue;
    auto& [shown, count] = writers[get_u64(writer, "number")];
    shown = &writer;
    ++count;
  }
  json rows = json::array();
  for (const auto& [number, writer] : writers) {
    if (rows.size() == k_max_rows) break;
    json row = *writer.first;
    row["mismatches"] = writer.second;
    rows.push_back(std::move(row));
  }
  return rows;
}

const char* word_for(uint64_t mismatches, const Counts& counts, const ReportInput& input) {
  if (input.reference_changed && counts.explained + counts.outside == mismatches &&
      counts.statuses == counts.outside_statuses)
    return "reference_changed";
  if (!input.broken.empty() && counts.explained == mismatches && counts.statuses == 0)
    return "broken";
  if (mismatches == 0 && counts.statuses == 0)
    return input.damaged_entries == 0 ? "good" : "history_damaged";
  return counts.explained == mismatches && counts.statuses == 0 ? "explained" : "damaged";
}

}  // namespace

Range range_of(const json& object) {
  const Range range{get_u64(object, "offset_bytes"), get_u64(object, "length_bytes")};
  return range.offset > k_max_offset || range.length > k_max_offset ? Range{} : range;
}

std::vector<Case> cases(const ReportInput& input) {
  std::vector<Case> all;
  for (const json& finding : input.findings) {
    if (get_string(finding, "kind") != "mismatch") continue;
    Case& one = all.emplace_back();
    one.finding = &finding;
    one.ranges = ranges_of(finding);
    add_named(one);
    add_events(one, input);
  }
  return all;
}

std::vector<const json*> status_findings(const ReportInput& input) {
  std::vector<const json*> all;
  for (const json& finding : input.findings)
    if (get_string(finding, "kind") == "status") all.push_back(&finding);
  return all;
}

json verdict(const ReportInput& input, const std::vector<Case>& all) {
  Counts counts;
  for (const Case& one : all) count_case(one, counts);
  count_statuses(input, counts);
  uint64_t ranges_total = 0;
  const json ranges = merged_ranges(all, ranges_total);
  json first = nullptr;
  if (!all.empty()) {
    first = *all.front().finding;
    first.erase("excerpt");
    first["rules"] = all.front().rules;
  }
  return {{"disk", input.disk},
          {"verdict", word_for(all.size(), counts, input)},
          {"error", input.broken.empty() ? json() : json(input.broken)},
          {"mismatches", all.size()},
          {"reference_changed_outside", input.reference_changed},
          {"left_out_bytes", input.left_out_bytes},
          {"damaged_entries", input.damaged_entries},
          {"explained", counts.explained},
          {"unexplained", all.size() - counts.explained},
          {"by_class", counts.by_class},
          {"by_suspect", counts.by_suspect},
          {"by_rule", counts.by_rule},
          {"status_differences", counts.statuses},
          {"status_differences_by_rule", counts.known_statuses},
          {"different_bytes", counts.bytes},
          {"ranges", ranges},
          {"ranges_total", ranges_total},
          {"first", first},
          {"last_writers", last_writers(all)},
          {"faults", input.faults.size()},
          {"dropped", input.dropped},
          {"faults_dropped", input.faults_dropped}};
}

}  // namespace pv::verify
