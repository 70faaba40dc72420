// SPDX-License-Identifier: MIT
// If this fails, a rule fires at other requests than its document says. Every decision is compared
// with a model that looks at each byte and counts each match.
#include <algorithm>
#include <cmath>
#include <set>

#include <fmt/format.h>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/fault/kinds.hpp"
#include "blk/fault/rule.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

namespace {

constexpr uint64_t k_rule_size = 64 * 512;

json parsed(const json& object) {
  return *parse_json(to_line(object));
}

RuleGround ground() {
  RuleGround here;
  here.geometry.size = k_rule_size;
  here.volatile_cache = true;
  return here;
}

bool take(Rule& rule, const Request& request) {
  return rule.matches(request, {}, 0) && rule.count();
}

Rule make_rule(const json& object) {
  auto rule = Rule::parse(parsed(object), ground());
  INFO(to_line(object));
  if (!rule) FAIL(rule.error().message);
  return std::move(*rule);
}

// What the document says, without any cleverness.
struct RuleModel {
  std::set<Op> ops;
  std::vector<bool> bytes = std::vector<bool>(k_rule_size, false);
  bool anywhere = true;
  uint64_t after = 0, every = 1, times = UINT64_MAX, matched = 0, fired = 0;

  bool covers(const Request& request) const {
    if (!ops.empty() && ops.count(request.op) == 0) return false;
    if (anywhere) return true;
    if (request.op == Op::flush) return false;
    for (uint64_t at = request.offset; at < request.offset + request.length; ++at)
      if (bytes[at]) return true;
    return false;
  }
  bool take(const Request& request) {
    if (!covers(request)) return false;
    ++matched;
    if (matched <= after || (matched - after) % every != 0 || fired >= times) return false;
    ++fired;
    return true;
  }
};

constexpr Op k_ops[] = {Op::read, Op::write, Op::flush, Op::discard, Op::zero, Op::map, Op::cache};

Request random_request(Rng& rng) {
  Request request;
  request.op = k_ops[rng.below(7)];
  if (request.op == Op::flush) return request;
  const uint64_t first = rng.below(63);
  request.offset = first * 512;
  request.length = (1 + rng.below(64 - first)) * 512;
  if (rng.below(3) == 0) request.length = 512;
  return request;
}

}  // namespace

TEST_CASE("rules match like a model that looks at every byte", "[fault]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  for (int round = 0; round < 150; ++round) {
    RuleModel model;
    json match = json::object(), when = json::object();
    if (rng.below(2) == 0) {
      match["op"] = json::array();
      for (uint64_t n = 1 + rng.below(3); n > 0; --n) {
        const Op op = k_ops[rng.below(7)];
        model.ops.insert(op);
        match["op"].push_back(op_name(op));
      }
    }
    if (rng.below(3) != 0 && !(model.ops.size() == 1 && model.ops.count(Op::flush) != 0)) {
      model.anywhere = false;
      match["ranges"] = json::array();
      for (uint64_t n = 1 + rng.below(6); n > 0; --n) {
        const uint64_t offset = rng.below(k_rule_size),
                       length = 1 + rng.below(std::min<uint64_t>(k_rule_size - offset, 1500));
        match["ranges"].push_back({offset, length});
        for (uint64_t at = offset; at < offset + length; ++at) model.bytes[at] = true;
      }
    }
    if (rng.below(2) == 0) when["after"] = model.after = rng.below(8);
    if (rng.below(2) == 0) when["every"] = model.every = 1 + rng.below(5);
    if (rng.below(2) == 0) when["times"] = model.times = 1 + rng.below(6);
    const json object = {{"match", match}, {"when", when}, {"do", {{"kind", "error"}}}};
    Rule rule = make_rule(object);
    INFO(to_line(object));
    for (int i = 0; i < 200; ++i) {
      const Request request = random_request(rng);
      if (take(rule, request) != model.take(request))
        FAIL_CHECK(op_name(request.op) << " at " << request.offset << "+" << request.length);
    }
    const json shown = rule.to_json();
    CHECK(shown["matched"] == model.matched);
    CHECK(shown["fired"] == model.fired);
    if (model.times == UINT64_MAX)
      CHECK(shown["left"].is_null());
    else
      CHECK(shown["left"] == model.times - model.fired);
  }
}

TEST_CASE("chance is a pure function of seed, rule and match number", "[fault]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  Request request;
  request.length = 512;
  const auto decisions = [&](const char* id, uint64_t with, double probability, uint64_t noise) {
    Rule rule =
        make_rule({{"id", id},
                   {"match", {{"op", {"read"}}}},
                   {"do", {{"kind", "error"}}},
                   {"when", {{"probability", probability}, {"seed", std::to_string(with)}}}});
    std::string out;
    for (int i = 0; i < 2000; ++i) {
      Request other = request;
      other.op = Op::write;  // does not match, so it must not disturb
      for (uint64_t n = rng.below(noise + 1); n > 0; --n) take(rule, other);
      out += take(rule, request) ? 'x' : '.';
    }
    return out;
  };
  const uint64_t with = rng.next();
  CHECK(decisions("r", with, 0.5, 0) == decisions("r", with, 0.5, 3));
  CHECK(decisions("r", with, 0.5, 0) != decisions("s", with, 0.5, 0));
  CHECK(decisions("r", with, 0.5, 0) != decisions("r", with + 1, 0.5, 0));
  CHECK(decisions("r", with, 1, 0) == std::string(2000, 'x'));
  for (const double p : {0.1, 0.5, 0.9}) {
    const std::string out = decisions("r", with, p, 0);
    const auto fired = static_cast<double>(std::count(out.begin(), out.end(), 'x'));
    // Six standard deviations: one run in a thousand million.
    CHECK(std::abs(fired - 2000 * p) < 6 * std::sqrt(2000 * p * (1 - p)));
  }
  // Of two probabilities the larger one fires wherever the smaller one does.
  const std::string few = decisions("r", with, 0.2, 0), many = decisions("r", with, 0.6, 0);
  for (size_t i = 0; i < few.size(); ++i)
    if (few[i] == 'x' && many[i] != 'x') FAIL_CHECK(i);
}

TEST_CASE("a rule that is shown can be parsed again and is the same", "[fault]") {
  const std::vector<json> rules = {
      {{"do", {{"kind", "error"}}}},
      {{"id", "x"}, {"do", {{"kind", "delay"}, {"delay_ms", 0.25}}}},
      {{"id", "y"},
       {"match", {{"op", {"read", "flush"}}, {"ranges", {{5, 7}, {0, 3}, {6, 100}}}}},
       {"when",
        {{"after", 3},
         {"every", 2},
         {"times", 9},
         {"probability", 0.125},
         {"seed", "18446744073709551615"}}},
       {"do", {{"kind", "error"}, {"errno", "ENOTSUP"}}}}};
  for (const json& object : rules) {
    Rule rule = make_rule(object);
    if (rule.id().empty()) rule.set_id("r1");
    const Rule again = make_rule(rule.to_json());
    CHECK(again.definition() == rule.definition());
    CHECK(again.id() == rule.id());
  }
}

TEST_CASE("ranges are merged, touching ones too, and may reach the last byte", "[fault]") {
  const Rule rule =
      make_rule({{"match", {{"ranges", {{1024, 512}, {0, 512}, {512, 512}, {k_rule_size - 1, 1}}}}},
                 {"do", {{"kind", "error"}}}});
  CHECK(to_line(rule.definition()["match"]["ranges"]) ==
        fmt::format("[[0,1536],[{},1]]", k_rule_size - 1));
  Rule last =
      make_rule({{"match", {{"ranges", {{k_rule_size - 1, 1}}}}}, {"do", {{"kind", "error"}}}});
  Request request;
  request.offset = k_rule_size - 512;
  request.length = 512;
  CHECK(take(last, request));
}

TEST_CASE("rules that are wrong or could never fire are refused", "[fault]") {
  const char* const bad[] = {
      R"(null)",
      R"([])",
      R"({})",
      R"({"do":null})",
      R"({"do":{}})",
      R"({"do":{"kind":7}})",
      R"({"do":{"kind":"error","errno":"EWRONG"}})",
      R"({"do":{"kind":"delay"}})",
      R"({"do":{"kind":"delay","delay_ms":0}})",
      R"({"do":{"kind":"delay","delay_ms":"5"}})",
      R"({"do":{"kind":"delay","delay_ms":86400001}})",
      R"({"do":{"kind":"error"},"match":{"op":[7]}})",
      R"({"do":{"kind":"error"},"match":{"ranges":[[0,0]]}})",
      R"({"do":{"kind":"error"},"match":{"ranges":[[32768,1]]}})",
      R"({"do":{"kind":"error"},"match":{"ranges":[[0,32769]]}})",
      R"({"do":{"kind":"error"},"match":{"ranges":[[1,18446744073709551615]]}})",
      R"({"do":{"kind":"error"},"match":{"op":["flush"],"ranges":[[0,1]]}})",
      R"({"do":{"kind":"error"},"when":{"every":0}})",
      R"({"do":{"kind":"error"},"when":{"times":0}})",
      R"({"do":{"kind":"error"},"when":{"after":1.5}})",
      R"({"do":{"kind":"error"},"when":{"probability":0}})",
      R"({"do":{"kind":"error"},"when":{"probability":-1}})",
      R"({"do":{"kind":"error"},"when":{"probability":1.01}})",
      R"({"do":{"kind":"error"},"when":{"probability":"1"}})",
      R"({"do":{"kind":"error"},"when":{"seed":""}})",
      R"({"do":{"kind":"error"},"when":{"seed":"-1"}})",
      R"({"do":{"kind":"error"},"when":{"seed":" -1"}})",
      R"({"do":{"kind":"error"},"when":{"seed":" 1"}})",
      R"({"do":{"kind":"error"},"when":{"seed":"+1"}})",
      R"({"do":{"kind":"error"},"when":{"seed":1.5}})",
      R"({"do":{"kind":"error"},"when":{"seed":"18446744073709551616"}})",
      R"({"do":{"kind":"error"},"id":""})",
      R"({"do":{"kind":"error"},"id":"a b"})",
      R"({"do":{"kind":"error"},"idd":"a"})"};
  for (const char* text : bad) {
    INFO(text);
    const auto rule = Rule::parse(*parse_json(text), ground());
    REQUIRE_FALSE(rule);
    CHECK(exit_class(rule.error().code) == 2);
  }
  const auto mode = Rule::parse(*parse_json(R"({"do":{"kind":"explode"}})"), ground());
  REQUIRE_FALSE(mode);
  CHECK(mode.error().code == Code::bad_mode);
  REQUIRE(mode.error().extra);
  CHECK((*mode.error().extra)["valid"].size() == fault_kinds().size());
}

TEST_CASE("the seed's modes are rules", "[fault]") {
  for (const char* mode : {"eio_read", "eio_write", "slow"}) {
    const auto object = shorthand_rule(mode);
    REQUIRE(object);
    CHECK(make_rule(*object).id() == mode);
  }
  CHECK_FALSE(shorthand_rule("eio"));
  CHECK(valid_modes().size() == 3 + fault_kinds().size());
}
