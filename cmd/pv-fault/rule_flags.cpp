// SPDX-License-Identifier: MIT
#include "rule_flags.hpp"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/fault/keys.hpp"
#include "blk/fault/rule.hpp"

namespace pv::faultcmd {
namespace {

constexpr size_t k_rule_flags_max_file = 256 << 20;
constexpr size_t k_pack_from = 4096;

// "OFFSET+LENGTH" with units, or "OFFSET" for `unit` bytes; both times `scale`.
Result<json> parse_range(std::string_view flag, const std::string& text, uint64_t scale) {
  const size_t plus = text.find('+');
  uint64_t offset = 0, length = 1;
  TRY_ASSIGN(offset, parse_size(text.substr(0, plus)));
  if (plus != std::string::npos) {
    TRY_ASSIGN(length, parse_size(text.substr(plus + 1)));
  } else if (scale == 1) {
    return fail(Code::usage, fmt::format("{} '{}' is not OFFSET+LENGTH", flag, text));
  }
  if (__builtin_mul_overflow(offset, scale, &offset) ||
      __builtin_mul_overflow(length, scale, &length))
    return fail(Code::usage, fmt::format("{} '{}' is past the end of any disk", flag, text));
  return json::array({offset, length});
}

// One sector, or N+COUNT, a line; what follows a # is a comment.
Result<> read_sectors(const std::string& path, uint64_t sector_size, json& ranges) {
  TRY_ASSIGN(const std::string text, read_file(path, k_rule_flags_max_file));
  size_t number = 0;
  for (const std::string& line : split(text, '\n')) {
    ++number;
    const size_t begin = line.find_first_not_of(" \t"), end = line.find_first_of(" \t#", begin);
    if (begin == std::string::npos || line[begin] == '#') continue;
    auto range = parse_range("--sectors-file", line.substr(begin, end - begin), sector_size);
    if (!range)
      return fail(Code::usage,
                  fmt::format("{}, line {}: '{}' is no sector and no N+COUNT", path, number, line));
    ranges.push_back(std::move(*range));
  }
  if (ranges.empty()) return fail(Code::usage, fmt::format("{} names no sector", path));
  return {};
}

Result<json> words(std::string_view flag, const std::vector<std::string>& lists, bool numbers) {
  json out = json::array();
  for (const std::string& list : lists) {
    for (const std::string& word : split(list, ',')) {
      if (!numbers) {
        out.push_back(word);
        continue;
      }
      TRY_ASSIGN(const uint64_t number, parse_count(flag, word));
      out.push_back(number);
    }
  }
  return out;
}

Result<> add_ranges(const RuleFlags& flags, uint64_t sector_size, json& match) {
  json ranges = json::array();
  for (const std::string& text : flags.ranges) {
    TRY_ASSIGN(json range, parse_range("--range", text, 1));
    ranges.push_back(std::move(range));
  }
  for (const std::string& text : flags.sectors) {
    TRY_ASSIGN(json range, parse_range("--sector", text, sector_size));
    ranges.push_back(std::move(range));
  }
  if (!flags.sectors_file.empty()) TRY(read_sectors(flags.sectors_file, sector_size, ranges));
  if (!ranges.empty()) match["ranges"] = std::move(ranges);
  return {};
}

Result<> add_match(const RuleFlags& flags, uint64_t sector_size, json& match) {
  if (!flags.ops.empty()) {
    TRY_ASSIGN(match["op"], words("--op", flags.ops, false));
  }
  TRY(add_ranges(flags, sector_size, match));
  if (!flags.flags.empty()) {
    TRY_ASSIGN(match["flags"], words("--flag", flags.flags, false));
  }
  if (!flags.connections.empty()) {
    TRY_ASSIGN(match["connection"], words("--connection", flags.connections, true));
  }
  const std::pair<const char*, const std::string*> sizes[] = {
      {"min_bytes", &flags.min_bytes},
      {"max_bytes", &flags.max_bytes},
      {"aligned_to", &flags.aligned_to},
      {"unaligned_to", &flags.unaligned_to}};
  for (const auto& [key, text] : sizes) {
    if (text->empty()) continue;
    TRY_ASSIGN(match[key], parse_size(*text));
  }
  if (!flags.content.empty()) match["content"]["text"] = flags.content;
  if (!flags.content_hex.empty()) match["content"]["hex"] = flags.content_hex;
  if (!flags.content_at.empty()) {
    TRY_ASSIGN(match["content"]["at"], parse_size(flags.content_at));
  }
  if (!flags.front.empty()) match["front"] = flags.front;
  return {};
}

Result<> add_numbers(const RuleFlags& flags, json& when) {
  if (!flags.nth.empty()) {
    if (!flags.after.empty() || !flags.every.empty() || !flags.times.empty())
      return fail(Code::usage, "--nth stands alone: it is --after N-1 --times 1");
    TRY_ASSIGN(const uint64_t nth, parse_count("--nth", flags.nth));
    if (nth == 0) return fail(Code::bad_rule, "--nth 0 could never fire: the first is 1");
    when["after"] = nth - 1;
    when["times"] = 1;
  }
  const struct {
    const char *key, *flag;
    const std::string& text;
  } numbers[] = {{"after", "--after", flags.after},
                 {"every", "--every", flags.every},
                 {"times", "--times", flags.times},
                 {"min_in_flight", "--in-flight", flags.in_flight}};
  for (const auto& [key, flag, text] : numbers) {
    if (text.empty()) continue;
    TRY_ASSIGN(when[key], parse_count(flag, text));
  }
  if (!flags.probability.empty()) {
    char* end = nullptr;
    when["probability"] = std::strtod(flags.probability.c_str(), &end);
    if (end == flags.probability.c_str() || *end != '\0' ||
        !std::isfinite(when["probability"].get<double>()))
      return fail(Code::usage,
                  fmt::format("--probability '{}' is not a number", flags.probability));
  }
  if (!flags.seed.empty()) when["seed"] = flags.seed;
  return {};
}

Result<> add_when(const RuleFlags& flags, json& when) {
  TRY(add_numbers(flags, when));
  const std::pair<const char*, const std::string*> times[] = {{"from_ms", &flags.from},
                                                              {"until_ms", &flags.to}};
  for (const auto& [key, text] : times) {
    if (text->empty()) continue;
    TRY_ASSIGN(const uint64_t ns, parse_duration(*text));
    when[key] = blk::ns_to_ms(ns);
  }
  if (!flags.cycle.empty()) {
    const std::vector<std::string> parts = split(flags.cycle, ',');
    if (parts.size() != 2)
      return fail(Code::usage, fmt::format("--cycle '{}' is not UP,DOWN", flags.cycle));
    for (const std::string& part : parts) {
      TRY_ASSIGN(const uint64_t ns, parse_duration(part));
      when["cycle_ms"].push_back(blk::ns_to_ms(ns));
    }
  }
  const std::pair<const char*, const std::string*> names[] = {
      {"state", &flags.state}, {"since", &flags.since}, {"until", &flags.until}, {"on", &flags.on}};
  for (const auto& [key, text] : names)
    if (!text->empty()) when[key] = *text;
  return {};
}

// KEY=VALUE: the value as JSON where it is some, else as text.
Result<> add_action(const RuleFlags& flags, json& action) {
  if (!flags.error.empty()) action["errno"] = flags.error;
  if (!flags.delay.empty()) {
    TRY_ASSIGN(const uint64_t ns, parse_duration(flags.delay));
    action["delay_ms"] = blk::ns_to_ms(ns);
  }
  for (const std::string& text : flags.set) {
    const size_t equals = text.find('=');
    if (equals == 0 || equals == std::string::npos)
      return fail(Code::usage, fmt::format("--set '{}' is not KEY=VALUE", text));
    const std::string value = text.substr(equals + 1);
    auto parsed = parse_json(value);
    action[text.substr(0, equals)] = parsed ? *parsed : json(value);
  }
  return {};
}

// eio_write is about writes, and gives EIO: with --op read it would be called what it is not. (Of
// the kinds the disk says what they can be applied to.)
Result<> check_name_holds(const RuleFlags& flags, const json& shorthand) {
  const json* given = find(shorthand["do"], "errno");
  if (!given) return {};
  const json& op = shorthand["match"]["op"][0];
  TRY_ASSIGN(const json wanted, words("--op", flags.ops, false));
  for (const json& other : wanted)
    if (other != op)
      return fail(Code::usage,
                  fmt::format("'{0}' is about {1}s: --op {2} contradicts it (the kind "
                              "'error' takes any: error --op {2})",
                              flags.mode, op.get<std::string>(), other.get<std::string>()));
  if (flags.error.empty() || *given == flags.error) return {};
  return fail(
      Code::usage,
      fmt::format("'{0}' gives {1}: --errno {2} contradicts it (error --op {3} --errno {2})",
                  flags.mode, given->get<std::string>(), flags.error, op.get<std::string>()));
}

Result<json> rule_of_mode(const RuleFlags& flags) {
  if (auto shorthand = blk::shorthand_rule(flags.mode)) {
    TRY(check_name_holds(flags, *shorthand));
    if (flags.has_selector()) shorthand->erase("id");  // not the fault that the name stands for
    return *shorthand;
  }
  const std::vector<std::string> valid = blk::valid_modes();
  if (std::find(valid.begin(), valid.end(), flags.mode) == valid.end())
    return fail(Error(Code::bad_mode,
                      fmt::format("unknown mode '{}' (valid: {})", flags.mode, join(valid, ", ")))
                    .with("valid", valid));
  return json{{"do", {{"kind", flags.mode}}}};
}

// object[key], made where there is none; what is there and no object is left for the disk to
// refuse.
Result<> into(json& rule, const char* key, const std::function<Result<>(json&)>& add) {
  json part = rule.contains(key) && !rule[key].is_null() ? rule[key] : json::object();
  if (!part.is_object()) return {};
  TRY(add(part));
  if (!part.empty()) rule[key] = std::move(part);
  return {};
}

}  // namespace

bool RuleFlags::has_selector() const {
  for (const auto* list : {&ops, &ranges, &sectors, &flags, &connections, &set})
    if (!list->empty()) return true;
  for (const auto* text :
       {&sectors_file, &min_bytes, &max_bytes, &aligned_to, &unaligned_to, &content, &content_hex,
        &content_at,   &front,     &after,     &every,      &nth,          &times,   &probability,
        &seed,         &from,      &to,        &cycle,      &in_flight,    &state,   &since,
        &until,        &on,        &error,     &delay,      &then})
    if (!text->empty()) return true;
  return heal || clip;
}

void add_rule_flag(cli::Verb& verb, RuleFlags& flags) {
  verb.option("--rule", flags.rule, "JSON", "The whole rule as an object, see pv-faults(7)");
}

void add_match_flags(cli::Verb& verb, RuleFlags& flags) {
  verb.option("--op", flags.ops, "OP,OP",
              "Only these operations: read write flush discard zero map cache");
  verb.option("--range", flags.ranges, "OFFSET+LENGTH",
              "Only requests that touch these bytes, e.g. 1M+4k (can be repeated)");
  verb.option("--sector", flags.sectors, "N+COUNT",
              "Only requests that touch these sectors, e.g. 8 or 8+2 (can be repeated)");
  verb.option("--sectors-file", flags.sectors_file, "FILE",
              "Only requests that touch a sector of this file: N or N+COUNT a line");
  verb.flag("--clip", flags.clip, "Cut ranges that cross the end of the disk");
  verb.option("--flag", flags.flags, "FLAG,FLAG", "Only requests with these: fua no_unmap one");
  verb.option("--min-bytes", flags.min_bytes, "SIZE", "Only requests at least this long");
  verb.option("--max-bytes", flags.max_bytes, "SIZE", "Only requests at most this long");
  verb.option("--aligned-to", flags.aligned_to, "SIZE",
              "Only requests whose offset and length are multiples of this");
  verb.option("--unaligned-to", flags.unaligned_to, "SIZE",
              "Only requests whose offset or length is no multiple of this");
  verb.option("--content", flags.content, "TEXT", "Only writes that hold this text");
  verb.option("--content-hex", flags.content_hex, "HEX", "Only writes that hold these bytes");
  verb.option("--content-at", flags.content_at, "BYTES",
              "Where in the data the content stands (default: any sector)");
  verb.option("--connection", flags.connections, "N,N", "Only requests of these connections");
  verb.option("--front", flags.front, "NAME", "Only requests that came this way: nbd or host");
}

void add_when_flags(cli::Verb& verb, RuleFlags& flags) {
  verb.option("--after", flags.after, "N", "Let the first N matching requests pass");
  verb.option("--every", flags.every, "N", "Then fire at every N-th");
  verb.option("--nth", flags.nth, "N", "Fire at the N-th matching request, once");
  verb.option("--times", flags.times, "N", "Fire at most N times");
  verb.option("--probability", flags.probability, "P", "Fire with this probability");
  verb.option("--seed", flags.seed, "N", "Seed of all chance of the rule (default: 0)");
  verb.option("--from-time", flags.from, "DURATION",
              "Match from this time after the rule was added");
  verb.option("--to-time", flags.to, "DURATION", "Match until this time after the rule was added");
  verb.option("--cycle", flags.cycle, "UP,DOWN", "Match for UP, then not for DOWN, and so on");
  verb.option("--in-flight", flags.in_flight, "N", "Match when N requests are in flight");
  verb.option("--state", flags.state, "NAME", "Match while the disk is in this state");
  verb.option("--since", flags.since, "MARK", "Match from this mark, or firing of a rule, on");
  verb.option("--until", flags.until, "MARK", "Match until this mark, or firing of a rule");
  verb.option("--on", flags.on, "MARK", "Fire once for each of these marks");
}

void add_action_flags(cli::Verb& verb, RuleFlags& flags) {
  verb.option("--errno", flags.error, "NAME", "The error to give, e.g. ENOSPC (default: EIO)");
  verb.option("--delay", flags.delay, "DURATION", "How long to wait, e.g. 50ms");
  verb.option("--set", flags.set, "KEY=VALUE",
              "A key of what the kind does, e.g. keep=last (can be repeated)");
  verb.option("--then", flags.then, "STATE", "The state that the disk goes to when it fires");
  verb.flag("--heal", flags.heal, "A rewrite of a range heals it");
}

Result<json> rule_from_flags(const RuleFlags& flags, uint64_t sector_size) {
  json rule;
  if (flags.rule.empty()) {
    TRY_ASSIGN(rule, rule_of_mode(flags));
  } else {
    if (!flags.mode.empty()) return fail(Code::usage, "a mode and --rule exclude each other");
    auto parsed = parse_json(flags.rule);
    if (!parsed) return fail(Code::bad_rule, "--rule: " + parsed.error().message);
    rule = *parsed;
  }
  if (!rule.is_object()) return fail(Code::bad_rule, "the rule is not an object");
  if (!flags.id.empty()) rule["id"] = flags.id;
  TRY(into(rule, "match", [&](json& match) { return add_match(flags, sector_size, match); }));
  TRY(into(rule, "when", [&](json& when) { return add_when(flags, when); }));
  TRY(into(rule, "do", [&](json& action) { return add_action(flags, action); }));
  if (!flags.then.empty()) rule["then"] = {{"state", flags.then}};
  if (flags.heal) rule["heal"] = "rewrite";
  if (flags.clip) rule["clip"] = true;
  return rule;
}

void pack_ranges(json& rule) {
  if (!rule.is_object() || !rule.contains("match") || !rule["match"].is_object()) return;
  json& match = rule["match"];
  const auto ranges = match.find("ranges");
  if (ranges == match.end() || !ranges->is_array() || ranges->size() < k_pack_from) return;
  std::string bytes;
  bytes.reserve(ranges->size() * 16);
  for (const json& pair : *ranges) {
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_number_unsigned() ||
        !pair[1].is_number_unsigned())
      return;  // the disk says what is wrong with it
    const uint64_t range[2] = {pair[0].get<uint64_t>(), pair[1].get<uint64_t>()};
    bytes.append(reinterpret_cast<const char*>(range), sizeof range);
  }
  match.erase("ranges");
  match["ranges_packed"] = base64_encode(bytes);
}

}  // namespace pv::faultcmd
