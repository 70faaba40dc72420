// SPDX-License-Identifier: MIT
#include "blk/fault/rule.hpp"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/rng.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/fault/kinds.hpp"

namespace pv::blk {
namespace {

// Operations that carry an address.
constexpr uint32_t k_addressed = ~(1U << static_cast<int>(Op::flush));

tl::unexpected<Error> bad(std::string message) {
  return fail(Code::bad_rule, std::move(message));
}

uint64_t hash_of(std::string_view text) {
  uint64_t hash = 0;
  for (char c : text) hash = mix(hash, static_cast<unsigned char>(c));
  return hash;
}

Result<uint64_t> unsigned_key(const json& object, const char* key, uint64_t fallback) {
  const json* value = find(object, key);
  if (!value || value->is_null()) return fallback;
  if (!value->is_number_unsigned()) return bad(fmt::format("when.{} is not a whole number", key));
  return value->get<uint64_t>();
}

Result<uint32_t> parse_ops(const json& list) {
  if (!list.is_array()) return bad("match.op is not a list of operations");
  uint32_t ops = 0;
  for (const json& name : list) {
    Op op;
    if (!name.is_string() || !op_from_name(name.get<std::string>(), op))
      return bad(
          fmt::format("match.op: unknown operation {} (read write flush discard zero map "
                      "cache)",
                      to_line(name)));
    ops |= 1U << static_cast<int>(op);
  }
  return ops == 0 ? ~0U : ops;
}

Result<std::vector<Range>> parse_ranges(const json& list, uint64_t disk_size) {
  std::vector<Range> ranges;
  if (!list.is_array()) return bad("match.ranges is not a list of [offset, length]");
  for (const json& pair : list) {
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_number_unsigned() ||
        !pair[1].is_number_unsigned())
      return bad(fmt::format("match.ranges: {} is not [offset, length] in bytes", to_line(pair)));
    const Range range{pair[0].get<uint64_t>(), pair[1].get<uint64_t>()};
    if (range.length == 0)
      return bad(fmt::format("range {} is empty: the rule could never fire", to_line(pair)));
    if (range.offset > disk_size || range.length > disk_size - range.offset)
      return bad(fmt::format("range {} reaches past the end of the disk ({} bytes)", to_line(pair),
                             disk_size));
    ranges.push_back(range);
  }
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return a.offset < b.offset; });
  std::vector<Range> merged;
  for (const Range& range : ranges) {
    if (!merged.empty() && range.offset <= merged.back().offset + merged.back().length)
      merged.back().length =
          std::max(merged.back().length, range.offset + range.length - merged.back().offset);
    else
      merged.push_back(range);
  }
  return merged;
}

Result<Match> parse_match(const json& object, uint64_t disk_size) {
  Match match;
  TRY(check_keys(object, {"op", "ranges"}, "match"));
  if (const json* ops = find(object, "op")) {
    TRY_ASSIGN(match.ops, parse_ops(*ops));
  }
  if (const json* ranges = find(object, "ranges")) {
    TRY_ASSIGN(match.ranges, parse_ranges(*ranges, disk_size));
  }
  if (!match.ranges.empty() && (match.ops & k_addressed) == 0)
    return bad("a flush has no address: with ranges the rule could never fire");
  return match;
}

Result<When> parse_when(const json& object) {
  When when;
  TRY(check_keys(object, {"after", "every", "times", "probability", "seed"}, "when"));
  TRY_ASSIGN(when.after, unsigned_key(object, "after", 0));
  TRY_ASSIGN(when.every, unsigned_key(object, "every", 1));
  if (when.every == 0) return bad("when.every is 0: the rule could never fire");
  if (const json* times = find(object, "times"); times && !times->is_null()) {
    TRY_ASSIGN(when.times, unsigned_key(object, "times", 0));
    if (*when.times == 0) return bad("when.times is 0: the rule could never fire");
  }
  if (const json* p = find(object, "probability")) {
    if (!p->is_number() || !(p->get<double>() > 0) || p->get<double>() > 1)
      return bad("when.probability must be above 0 and at most 1");
    when.probability = p->get<double>();
  }
  if (const json* seed = find(object, "seed")) {
    const std::string text = seed->is_string() ? seed->get<std::string>() : to_line(*seed);
    const bool digits = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
    errno = 0;
    when.seed = std::strtoull(text.c_str(), nullptr, 10);
    if (errno != 0 || !digits) return bad("when.seed is not a 64-bit number (as a string)");
  }
  return when;
}

Result<std::unique_ptr<Action>> parse_action(const json* object) {
  if (!object || !object->is_object()) return bad("the rule has no 'do' object");
  const std::string kind = get_string(*object, "kind");
  std::vector<std::string> known;
  for (const KindRow& row : fault_kinds()) {
    if (kind == row.name) return row.make(*object);
    known.emplace_back(row.name);
  }
  return fail(Error(Code::bad_mode,
                    fmt::format("unknown fault kind '{}' (valid: {})", kind, join(known, ", ")))
                  .with("valid", known));
}

}  // namespace

bool Match::covers(const Request& request) const {
  if ((ops & 1U << static_cast<int>(request.op)) == 0) return false;
  if (ranges.empty()) return true;
  if (request.op == Op::flush || request.length == 0) return false;
  const auto after =
      std::upper_bound(ranges.begin(), ranges.end(), request.offset + request.length - 1,
                       [](uint64_t at, const Range& range) { return at < range.offset; });
  if (after == ranges.begin()) return false;
  const Range& last = *std::prev(after);
  return last.offset + last.length > request.offset;
}

Result<Rule> Rule::parse(const json& object, uint64_t disk_size) {
  // What `pv-fault list` shows may be fed back: the counters are accepted and start anew.
  TRY(check_keys(object, {"id", "match", "when", "do", "matched", "fired", "left"}, "rule"));
  Rule rule;
  if (const json* id = pv::find(object, "id")) {
    if (!id->is_string()) return bad("id is not a string");
    rule.id = id->get<std::string>();
    if (!check_name("rule", rule.id))
      return bad(fmt::format("rule id '{}' is not a name", rule.id));
  }
  if (const json* match = pv::find(object, "match")) {
    TRY_ASSIGN(rule.match_, parse_match(*match, disk_size));
  }
  if (const json* when = pv::find(object, "when")) {
    TRY_ASSIGN(rule.when_, parse_when(*when));
  }
  TRY_ASSIGN(rule.action_, parse_action(pv::find(object, "do")));
  return rule;
}

bool Rule::take(const Request& request) {
  if (!match_.covers(request)) return false;
  const uint64_t number = matched_++;
  if (number < when_.after || (number - when_.after + 1) % when_.every != 0) return false;
  if (when_.times && fired_ >= *when_.times) return false;
  if (when_.probability < 1) {
    const uint64_t draw = mix(mix(when_.seed, hash_of(id)), number);
    if (std::ldexp(static_cast<double>(draw >> 11), -53) >= when_.probability) return false;
  }
  ++fired_;
  return true;
}

json Rule::definition() const {
  json ops = json::array();
  for (int i = 0; i < k_op_count; ++i)
    if (match_.ops != ~0U && (match_.ops & 1U << i) != 0)
      ops.push_back(op_name(static_cast<Op>(i)));
  json ranges = json::array();
  for (const Range& range : match_.ranges) ranges.push_back({range.offset, range.length});
  json when = {{"after", when_.after},
               {"every", when_.every},
               {"times", nullptr},
               {"probability", when_.probability},
               {"seed", std::to_string(when_.seed)}};
  if (when_.times) when["times"] = *when_.times;
  return {
      {"match", {{"op", ops}, {"ranges", ranges}}}, {"when", when}, {"do", action_->describe()}};
}

json Rule::to_json() const {
  json object = {{"id", id}, {"matched", matched_}, {"fired", fired_}, {"left", nullptr}};
  if (when_.times) object["left"] = *when_.times - fired_;
  object.update(definition());
  return object;
}

}  // namespace pv::blk
