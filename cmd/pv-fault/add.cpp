// SPDX-License-Identifier: MIT
#include <CLI/CLI.hpp>

#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/fault/rule.hpp"
#include "verbs.hpp"

namespace pv::faultcmd {
namespace {

struct Options {
  std::string mode;
  std::string disk;
  std::string rule;
  std::string id, error, delay, after, every, nth, times, probability, seed;
  std::vector<std::string> ops, ranges, sectors;

  bool has_selector() const {
    return !ops.empty() || !ranges.empty() || !sectors.empty() || !after.empty() ||
           !every.empty() || !nth.empty() || !times.empty() || !probability.empty() ||
           !seed.empty() || !error.empty() || !delay.empty();
  }
};

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

Result<> add_match(const Options& options, uint64_t sector_size, json& rule) {
  if (!options.ops.empty()) {
    json ops = json::array();
    for (const std::string& list : options.ops)
      for (const std::string& op : split(list, ',')) ops.push_back(op);
    rule["match"]["op"] = ops;
  }
  json ranges = json::array();
  for (const std::string& text : options.ranges) {
    TRY_ASSIGN(json range, parse_range("--range", text, 1));
    ranges.push_back(range);
  }
  for (const std::string& text : options.sectors) {
    TRY_ASSIGN(json range, parse_range("--sector", text, sector_size));
    ranges.push_back(range);
  }
  if (!ranges.empty()) rule["match"]["ranges"] = ranges;
  return {};
}

Result<> add_when(const Options& options, json& rule) {
  if (!options.nth.empty()) {
    if (!options.after.empty() || !options.every.empty() || !options.times.empty())
      return fail(Code::usage, "--nth stands alone: it is --after N-1 --times 1");
    TRY_ASSIGN(const uint64_t nth, parse_count("--nth", options.nth));
    if (nth == 0) return fail(Code::bad_rule, "--nth 0 could never fire: the first is 1");
    rule["when"]["after"] = nth - 1;
    rule["when"]["times"] = 1;
  }
  const std::pair<const char*, const std::string*> numbers[] = {
      {"after", &options.after}, {"every", &options.every}, {"times", &options.times}};
  for (const auto& [key, text] : numbers) {
    if (text->empty()) continue;
    TRY_ASSIGN(rule["when"][key], parse_count(fmt::format("--{}", key), *text));
  }
  if (!options.probability.empty()) {
    char* end = nullptr;
    rule["when"]["probability"] = std::strtod(options.probability.c_str(), &end);
    if (end == options.probability.c_str() || *end != '\0')
      return fail(Code::usage,
                  fmt::format("--probability '{}' is not a number", options.probability));
  }
  if (!options.seed.empty()) rule["when"]["seed"] = options.seed;
  return {};
}

Result<> add_action(const Options& options, json& rule) {
  json& action = rule["do"];
  if (!options.error.empty()) action["errno"] = options.error;
  if (!options.delay.empty()) {
    TRY_ASSIGN(const uint64_t ns, parse_duration(options.delay));
    action["delay_ms"] = static_cast<double>(ns) / 1e6;
  }
  return {};
}

// A rule document from --rule, from a mode and flags, or from the input document's `rule`.
Result<json> make_rule(cli::Context& context, const Options& options, uint64_t sector_size) {
  json rule = json::object();
  if (!options.rule.empty()) {
    if (!options.mode.empty()) return fail(Code::usage, "a mode and --rule exclude each other");
    auto parsed = parse_json(options.rule);
    if (!parsed) return fail(Code::bad_rule, "--rule: " + parsed.error().message);
    rule = *parsed;
  } else if (options.mode.empty()) {
    const json* given = context.has_input() ? find(context.document(), "rule") : nullptr;
    if (!given)
      return fail(Code::usage, fmt::format("say which fault: {}, or --rule JSON",
                                           join(blk::valid_modes(), ", ")));
    rule = *given;
  } else if (auto shorthand = blk::shorthand_rule(options.mode)) {
    rule = *shorthand;
    if (options.has_selector()) rule.erase("id");  // no longer the fault that the name stands for
  } else {
    const std::vector<std::string> valid = blk::valid_modes();
    if (std::find(valid.begin(), valid.end(), options.mode) == valid.end())
      return fail(Error(Code::bad_mode, fmt::format("unknown mode '{}' (valid: {})", options.mode,
                                                    join(valid, ", ")))
                      .with("valid", valid));
    rule["do"]["kind"] = options.mode;
  }
  if (!rule.is_object()) return fail(Code::bad_rule, "the rule is not an object");
  if (!options.id.empty()) rule["id"] = options.id;
  if (!options.has_selector()) return rule;
  TRY(add_match(options, sector_size, rule));
  TRY(add_when(options, rule));
  TRY(add_action(options, rule));
  return rule;
}

Result<int> act(cli::Context& context, const Options& options) {
  TRY_ASSIGN(Session session, open_session(context, options.disk));
  TRY_ASSIGN(const json state, session.at.disk.load());
  TRY_ASSIGN(const json rule, make_rule(context, options, get_u64(state, "sector_size", 512)));
  TRY_ASSIGN(const json reply,
             session.client.call({{"op", "fault.add"}, {"rule", rule}, {"with_disk", true}}));
  TRY_ASSIGN(context.document()["disk"], target::disk_document_from(session.at.disk, reply));
  context.document()["rule"] = reply["rule"];
  TRY(context.emit());
  return 0;
}

}  // namespace

void build_add(cli::Verb& verb) {
  auto options = std::make_shared<Options>();
  verb.positional("mode", options->mode,
                  "eio_read, eio_write, slow, or a kind (see pv-fault kinds)");
  add_disk_flag(verb, options->disk);
  verb.option("--rule", options->rule, "JSON", "The whole rule as an object, see pv-faults(7)");
  verb.option("--id", options->id, "NAME", "Name of the rule (default: the mode, or r1, r2, ...)");
  verb.option("--op", options->ops, "OP,OP",
              "Only these operations: read write flush discard zero map cache");
  verb.option("--range", options->ranges, "OFFSET+LENGTH",
              "Only requests that touch these bytes, e.g. 1M+4k (can be repeated)");
  verb.option("--sector", options->sectors, "N+COUNT",
              "Only requests that touch these sectors, e.g. 8 or 8+2 (can be repeated)");
  verb.option("--errno", options->error, "NAME", "The error to give, e.g. ENOSPC (default: EIO)");
  verb.option("--delay", options->delay, "DURATION", "How long to wait, e.g. 50ms");
  verb.option("--after", options->after, "N", "Let the first N matching requests pass");
  verb.option("--every", options->every, "N", "Then fire at every N-th");
  verb.option("--nth", options->nth, "N", "Fire at the N-th matching request, once");
  verb.option("--times", options->times, "N", "Fire at most N times");
  verb.option("--probability", options->probability, "P", "Fire with this probability");
  verb.option("--seed", options->seed, "N", "Seed of the probability (default: 0)");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::faultcmd
