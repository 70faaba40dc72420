// SPDX-License-Identifier: MIT
// The triggers: for each way in which a rule can choose its requests, the requests that show it,
// and which of them must fire.
#include <fmt/format.h>

#define XXH_INLINE_ALL
#include <cerrno>
#include <xxhash.h>

#include "../catch.hpp"
#include "base/text.hpp"
#include "fault_matrix.hpp"

namespace pv::test::matrix {
namespace {

constexpr const char* k_word = "a word that the guest has written";

uint64_t lane_offset(int lane) {
  return k_lane * static_cast<uint64_t>(lane + 1);
}

// One request a letter: 'x' fires, 'm' is a match that does not, '.' is none.
std::vector<Step> row(const Maker& m, std::string_view pattern) {
  std::vector<Step> steps;
  for (const char c : pattern) {
    steps.push_back(m.step(static_cast<int>(steps.size()), c == 'x'));
    steps.back().request.counts = c != '.';
  }
  return steps;
}

// The same, with something done between any two.
std::vector<Step> row_with(const Maker& m, std::string_view pattern,
                           const std::vector<Step>& between) {
  std::vector<Step> steps = row(m, pattern);
  for (size_t i = 0; i < between.size(); ++i)
    steps.insert(steps.begin() + static_cast<ptrdiff_t>(2 * i + 1), between[i]);
  return steps;
}

Script with_when(const Maker& m, const json& when, std::string_view pattern,
                 const std::vector<Step>& between = {}) {
  return {json::object(), when, {}, row_with(m, pattern, between)};
}

// The first request is changed by `spoil`, so that it does not match.
template <class F>
Script with_match(const Maker& m, const json& match, F&& spoil, const char* pattern = ".xx") {
  Script script{match, json::object(), {}, row(m, pattern)};
  spoil(script.steps[0].request);
  return script;
}

void resize(const Maker& m, Ask& ask, uint64_t length) {
  ask.length = length;
  if (ask.op == Op::write) ask.data = random_bytes(m.rng, length);
}

// The guest writes its word at the end of the disk. A rule about writes sees this one too, after
// the mark is set.
Step say_word(const Maker& m) {
  Step step{Step::ask, m.plain(Op::write, k_magic, k_length)};
  step.request.flags = m.subject.flags;
  step.request.data.replace(64, strlen(k_word), k_word);
  step.request.counts = step.request.fires =
      m.subject.op == Op::write && m.subject.match == nullptr;
  return step;
}
json hears_word(const Maker& m) {
  return {{"id", m.id + "-word"},
          {"match",
           {{"op", json::array({"write"})},
            {"ranges", json::array({{k_magic, k_length}})},
            {"content", {{"text", k_word}, {"at", 64}}}}},
          {"do", {{"kind", "mark"}, {"name", m.id + "-heard"}}}};
}

Script by_chance(const Maker& m) {
  const uint64_t seed = m.rng.next();
  std::string pattern;
  const Chance key = Chance::of_rule(seed, m.id);
  for (uint64_t i = 0; i < 8; ++i) pattern += key.of(i).unit() < 0.5 ? 'x' : 'm';
  return with_when(m, {{"probability", 0.5}, {"seed", std::to_string(seed)}}, pattern);
}

Script by_range(const Maker& m) {
  return {
      {{"ranges", json::array({{lane_offset(1) + 1000, 200}})}}, json::object(), {}, row(m, ".x.")};
}

Script by_content(const Maker& m, const json& content) {
  Script script{{{"content", content}}, json::object(), {}, row(m, ".x.")};
  script.steps[1].request.data.replace(64, strlen(k_word), k_word);
  return script;
}

Script by_text(const Maker& m) {
  return by_content(m, {{"text", k_word}, {"at", 64}});
}

Script by_hex(const Maker& m) {
  std::string hex;
  for (const char* c = k_word; *c != '\0'; ++c) hex += fmt::format("{:02x}", *c);
  return by_content(m, {{"hex", hex}, {"at", 64}});
}

Script by_hash(const Maker& m) {
  Script script = by_content(m, json::object());
  const std::string& data = script.steps[1].request.data;
  script.match["content"]["xxh3"] = fmt::format("{:016x}", XXH3_64bits(data.data(), data.size()));
  return script;
}

Script by_connection(const Maker& m) {
  return with_match(
      m, {{"connection", json::array({2})}}, [](Ask&) {}, ".x.");
}

Script by_front(const Maker& m) {
  return {{{"front", front_name(m.front)}}, json::object(), {}, row(m, "xxx")};
}

Script by_other_front(const Maker& m) {
  const Front other = m.front == Front::host ? Front::nbd : Front::host;
  return {{{"front", front_name(other)}}, json::object(), {}, row(m, "...")};
}

// Moments are chosen apart from those of the kinds' own delays: these take at most 3 ms each.
Script by_window(const Maker& m) {
  const Step later{Step::advance, {}, "", 20 * k_ns_per_ms};
  return with_when(m, {{"from_ms", 15}, {"until_ms", 35}}, ".x.", {later, later});
}

Script by_cycle(const Maker& m) {
  const Step later{Step::advance, {}, "", 20 * k_ns_per_ms};
  return with_when(m, {{"cycle_ms", {18, 17}}}, "x.x", {later, later});
}

Script by_depth(const Maker& m) {
  Script script = with_when(m, {{"min_in_flight", 2}}, ".x.", {{Step::hold}, {Step::let_go}});
  script.helpers.push_back(
      {{"id", m.id + "-hold"},
       {"match", {{"op", json::array({"read"})}, {"ranges", json::array({{k_aside, k_length}})}}},
       {"do", {{"kind", "stall"}}}});
  return script;
}

Script by_state(const Maker& m) {
  Script script = with_when(m, {{"state", m.id + "-armed"}}, ".xx.",
                            {say_word(m), {Step::advance}, {Step::state, {}, "start"}});
  script.helpers.push_back(hears_word(m));
  script.helpers[0]["then"] = {{"state", m.id + "-armed"}};
  return script;
}

Script by_set_state(const Maker& m) {
  return with_when(m, {{"state", m.id + "-set"}}, ".x.",
                   {{Step::state, {}, m.id + "-set"}, {Step::state, {}, "start"}});
}

Script since_mark(const Maker& m) {
  return with_when(m, {{"since", m.id + "-m"}}, ".xx", {{Step::mark, {}, m.id + "-m"}});
}

Script until_mark(const Maker& m) {
  return with_when(m, {{"until", m.id + "-m"}}, "x..", {{Step::mark, {}, m.id + "-m"}});
}

Script on_mark(const Maker& m) {
  const Step mark{Step::mark, {}, m.id + "-m"};
  Script script = with_when(m, {{"on", m.id + "-m"}}, ".x.x.", {mark});
  script.steps.insert(script.steps.end() - 2, mark);
  return script;
}

Script since_rule(const Maker& m) {
  Step failing{Step::ask, m.plain(Op::read, k_magic, k_length)};
  failing.request.other = ENOMEM;
  Script script = with_when(m, {{"since", m.id + "-first"}}, ".xx", {failing});
  script.helpers.push_back(
      {{"id", m.id + "-first"},
       {"match", {{"op", json::array({"read"})}, {"ranges", json::array({{k_magic, 1}})}}},
       {"do", {{"kind", "error"}, {"errno", "ENOMEM"}}}});
  return script;
}

Script since_word(const Maker& m) {
  Script script = with_when(m, {{"since", m.id + "-heard"}}, ".xx", {say_word(m)});
  script.helpers.push_back(hears_word(m));
  return script;
}

const std::vector<Trigger> k_triggers = {
    {"always", 0, [](const Maker& m) { return with_when(m, json::object(), "xxx"); }},
    {"after", 0,
     [](const Maker& m) {
       return with_when(m, {{"after", 2}}, "mmxx");
     }},
    {"every", 0,
     [](const Maker& m) {
       return with_when(m, {{"every", 2}}, "mxmx");
     }},
    {"times", 0,
     [](const Maker& m) {
       return with_when(m, {{"times", 1}}, "xmm");
     }},
    {"nth", 0,
     [](const Maker& m) {
       return with_when(m, {{"after", 1}, {"times", 1}}, "mxm");
     }},
    {"probability", 0, by_chance},
    {"ranges", k_address, by_range},
    {"flags", k_fua_able,
     [](const Maker& m) {
       Script script = with_match(
           m, {{"flags", json::array({"fua"})}}, [](Ask&) {}, ".x.");
       for (Step& step : script.steps) step.request.flags &= ~k_fua;
       script.steps[1].request.flags |= k_fua;
       return script;
     }},
    {"min_bytes", k_address,
     [](const Maker& m) {
       Script script = with_match(
           m, {{"min_bytes", 8192}}, [](Ask&) {}, ".x.");
       resize(m, script.steps[1].request, 8192);
       return script;
     }},
    {"max_bytes", k_address,
     [](const Maker& m) {
       return with_match(m, {{"max_bytes", k_length}}, [&](Ask& ask) { resize(m, ask, 8192); });
     }},
    {"aligned", k_address,
     [](const Maker& m) {
       return with_match(m, {{"aligned_to", 4096}}, [](Ask& ask) { ask.offset += 512; });
     }},
    {"unaligned", k_address,
     [](const Maker& m) {
       Script script = with_match(
           m, {{"unaligned_to", 4096}}, [](Ask&) {}, ".x.");
       script.steps[1].request.offset += 512;
       return script;
     }},
    {"text", k_data, by_text},
    {"hex", k_data, by_hex},
    {"xxh3", k_data, by_hash},
    {"connection", k_connection,
     [](const Maker& m) {
       Script script = by_connection(m);
       script.steps[1].request.client = 1;
       return script;
     }},
    {"front", 0, by_front},
    {"other front", 0, by_other_front},
    {"window", 0, by_window},
    {"cycle", 0, by_cycle},
    {"min_in_flight", 0, by_depth},
    {"state", 0, by_set_state},
    {"state by then", 0, by_state},
    {"since mark", 0, since_mark},
    {"until mark", 0, until_mark},
    {"on mark", 0, on_mark},
    {"since rule", 0, since_rule},
    {"since magic write", 0, since_word},
};

uint32_t fits(const Subject& subject, Front front) {
  uint32_t fits = 0;
  if (subject.op != Op::flush) fits |= k_address;
  if (subject.op == Op::write) fits |= k_data;
  if (subject.op == Op::write || subject.op == Op::zero || subject.op == Op::discard)
    fits |= k_fua_able;
  if (front == Front::vhost && subject.op == Op::discard) fits &= ~k_fua_able;
  if (front == Front::nbd) fits |= k_connection;
  return fits;
}

}  // namespace

const std::vector<Trigger>& triggers() {
  return k_triggers;
}

const char* excluded(const Subject& subject, const Trigger& trigger, Front front) {
  if (subject.wire && front == Front::host) return "the host has no wire";
  if (subject.wire && std::string_view(trigger.name) == "other front")
    return "a rule about the wire that is bound to the host is refused";
  if (front == Front::vhost && subject.kind == std::string_view("disconnect") &&
      trigger.name == std::string_view("min_in_flight"))
    return "what is held is on the connection that is cut";
  if (front == Front::vhost && (subject.op == Op::map || subject.op == Op::cache))
    return "a virtio disk has no such request";
  if (front == Front::vhost && subject.op == Op::discard && (subject.flags & k_fua) != 0)
    return "a discard of a virtio disk has no FUA";
  const uint32_t missing = trigger.needs & ~fits(subject, front);
  if ((missing & k_address) != 0) return "a flush has no address and no length";
  if ((missing & k_data) != 0) return "only a write brings data that a rule can look at";
  if ((missing & k_fua_able) != 0) return "only a change can have FUA";
  if ((missing & k_connection) != 0) return "there is one connection, or none";
  return nullptr;
}

Ask Maker::plain(Op op, uint64_t offset, uint64_t length) const {
  Ask ask;
  ask.op = op;
  ask.offset = offset;
  ask.length = length;
  if (op == Op::write) ask.data = random_bytes(rng, length);
  return ask;
}

Ask Maker::ask(int lane, bool fires) const {
  const bool flush = subject.op == Op::flush;
  Ask ask = plain(subject.op, flush ? 0 : lane_offset(lane), flush ? 0 : k_length);
  ask.flags = subject.flags;
  ask.counts = ask.fires = fires;
  return ask;
}

}  // namespace pv::test::matrix
