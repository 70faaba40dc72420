// SPDX-License-Identifier: MIT
// Runs one cell of the matrix: the requests one by one, each compared with what its oracle says,
// then what the layer has on record, then what a repair makes of the disk.
#include <algorithm>

#include <fmt/format.h>

#include "../catch.hpp"
#include "base/text.hpp"
#include "blk/fault/journal.hpp"
#include "blk/wire.hpp"
#include "fault_matrix.hpp"

namespace pv::test::matrix {
namespace {

constexpr int k_patience_ms = 20'000;

std::string status_text(int error) {
  return error == 0 ? "OK" : errno_name(error);
}

std::string first_difference(const std::string& a, const std::string& b) {
  if (a.size() != b.size()) return fmt::format("{} bytes, not {}", a.size(), b.size());
  const auto at = std::mismatch(a.begin(), a.end(), b.begin()).first - a.begin();
  return fmt::format("differs from byte {} on", at);
}

}  // namespace

Cell::Cell(Station& station_, const Subject& subject_, const Trigger& trigger_, uint64_t number,
           uint64_t seed, Sabotage sabotage)
    : station(station_),
      subject(subject_),
      trigger(trigger_),
      rng(mix(seed, number)),
      id_(fmt::format("r{}", number)),
      sabotage_(sabotage) {}

void Cell::call(const json& request) {
  const auto reply = station.call(request);
  if (!reply) record.push_back(fmt::format("{}: {}", to_line(request), reply.error().message));
}

void Cell::run() {
  station.on([&] { station.medium().fill(rng); });
  world.honest = world.shown = world.stable = station.medium().bytes();
  world.cached = subject.cached;
  flushes_ = station.medium().flushes();
  fua_bytes_ = station.medium().fua_bytes();
  const Maker maker{subject, station.front(), id_, rng};
  const Script script = trigger.make(maker);
  begin(script);
  for (const Step& next : script.steps) step(next);
  if (subject.finish != nullptr) subject.finish(*this);
  compare_record();
  end();
}

// The rule as the oracle knows it; what the disk gets may be something else on purpose.
void Cell::begin(const Script& script) {
  if (world.cached) ask(Maker{subject, station.front(), id_, rng}.plain(Op::write, 0, k_length));
  rule_ = {{"id", id_}, {"match", script.match}, {"when", script.when}, {"do", json::object()}};
  rule_["match"]["op"] = json::array({op_name(subject.op)});
  const json own = json::parse(subject.match != nullptr ? subject.match : "{}");
  for (const auto& [key, value] : own.items())
    if (!rule_["match"].contains(key)) rule_["match"][key] = value;
  rule_["do"]["kind"] = subject.kind;
  rule_["do"].update(json::parse(subject.action));
  if (rule_["do"]["kind"] == "mark") rule_["do"]["name"] = "noted-" + id_;
  first_event_ = last_event();
  for (const json& helper : script.helpers) call({{"op", "fault.add"}, {"rule", helper}});
  json rule = rule_;
  if (sabotage_ == Sabotage::idle) rule["do"] = {{"kind", "mark"}, {"name", "nothing"}};
  if (sabotage_ == Sabotage::restless) rule["when"] = json::object();
  call({{"op", "fault.add"}, {"rule", rule}});
  world.now_ns = 0;
  if (subject.prepare != nullptr) subject.prepare(*this);
}

void Cell::step(const Step& step) {
  switch (step.what) {
    case Step::ask:
      return ask(step.request);
    case Step::mark:
      return call({{"op", "fault.mark"}, {"name", step.name}});
    case Step::state:
      return call({{"op", "fault.state"}, {"name", step.name}});
    case Step::advance:
      return advance(step.ns);
    case Step::hold: {
      background_ = std::make_unique<Flight>();
      background_->ask =
          Maker{subject, station.front(), id_, rng}.plain(Op::read, k_aside, k_length);
      background_->ask.client = 1;
      const uint64_t before = last_event();
      station.submit(*background_);
      Answer held;
      held.held = true;
      return wait_out(*background_, held, before);
    }
    case Step::let_go: {
      const Answer answer = expect(background_->ask);
      release(*background_);
      if (!finish(*background_, answer)) lost_.push_back(std::move(background_));
      background_.reset();
      return;
    }
  }
}

void Cell::advance(uint64_t ns) {
  world.advance(ns);
  station.advance_ns(ns);
  compare_medium("after a time");
}

void Cell::clear(bool repair) {
  call({{"op", "fault.clear"}, {"id", ""}, {"repair", repair}});
}

uint64_t Cell::last_event() {
  return (*station.call({{"op", "fault.journal"}}))["last"];
}

// A device that is gone stays gone: its rule then fires at everything.
Answer Cell::expect(const Ask& ask) {
  Answer answer;
  if (ask.counts || world.latched) ++world.matched;
  if (!ask.fires && !world.latched) {
    world.pass(ask, answer);
    answer.status = ask.other;
    return answer;
  }
  ++world.fired;
  const json& when = rule_["when"];
  const uint64_t seed = when.contains("seed") ? std::stoull(when["seed"].get<std::string>()) : 0;
  const Chance chance = Chance::of_rule(seed, id_).of(world.matched - 1);
  subject.fire(world, ask, {world.matched, chance, rule_}, answer);
  world.latched = subject.latches;
  events_.push_back({ask, world.matched, answer.wire != nullptr ? 0 : answer.status, answer.wire,
                     station.connection(ask.client)});
  return answer;
}

void Cell::ask(const Ask& asked) {
  const Answer answer = expect(asked);
  auto flight = std::make_unique<Flight>();
  flight->ask = asked;
  const bool waits = answer.held || answer.wait_ns != 0;
  const uint64_t before = waits ? last_event() : 0;
  station.submit(*flight);
  if (waits) wait_out(*flight, answer, before);
  if (answer.held) release(*flight);
  if (!finish(*flight, answer)) lost_.push_back(std::move(flight));
}

// Until the request is known to wait, and then as long as it must.
void Cell::wait_out(Flight& flight, const Answer& answer, uint64_t before) {
  const Deadline deadline = Deadline::in_ms(k_patience_ms);
  while (last_event() == before && !deadline.passed())
    if (station.done(flight, 1)) return client.push_back("it did not wait");
  if (answer.held) return;
  world.advance(answer.wait_ns);
  station.advance_ns(answer.wait_ns - 1);
  if (station.done(flight, 0)) return client.push_back("it ended too early");
  station.advance_ns(1);
}

void Cell::release(const Flight& flight) {
  const json held = (*station.call({{"op", "fault.held"}}))["held"];
  const Ask& ask = flight.ask;
  const auto same = [&](const json& row) {
    return row["op"] == op_name(ask.op) && row["offset_bytes"] == ask.offset &&
           row["length_bytes"] == ask.length;
  };
  const auto found = std::find_if(held.begin(), held.end(), same);
  if (found == held.end() || held.size() > (background_ ? 2 : 1))
    return client.push_back("what is held is " + to_line(held));
  call({{"op", "fault.release"}, {"tickets", json::array({(*found)["ticket"]})}});
}

// False when there is no answer: it may still come.
bool Cell::finish(Flight& flight, const Answer& answer) {
  const Ask& ask = flight.ask;
  const std::string what = fmt::format("{} at {}", op_name(ask.op), ask.offset);
  if (flight.status < 0 && !station.done(flight, lost_.empty() ? k_patience_ms : 0)) {
    client.push_back(what + ": never answered");
    return false;
  }
  const int status =
      answer.wire != nullptr ? answer.status : delivered(station.front(), ask.op, answer.status);
  if (flight.status != status)
    client.push_back(
        fmt::format("{}: {}, not {}", what, status_text(flight.status), status_text(status)));
  if (answer.judge) {
    const std::string wrong = answer.judge(flight, station.medium().bytes());
    if (!wrong.empty()) client.push_back(what + ": " + wrong);
  } else if (ask.op == Op::read && status == 0 && flight.data != answer.data) {
    client.push_back(what + ": the data " + first_difference(flight.data, answer.data));
  }
  compare_medium(what.c_str());
  return true;
}

void Cell::compare_medium(const char* when) {
  const std::string now = station.medium().bytes();
  if (now != world.medium())
    medium.push_back(fmt::format("{}: {}", when, first_difference(now, world.medium())));
  const uint64_t flushes = station.medium().flushes() - flushes_;
  const uint64_t fua_bytes = station.medium().fua_bytes() - fua_bytes_;
  if (flushes != world.flushes || fua_bytes != world.fua_bytes)
    medium.push_back(fmt::format("{}: {} flushes and {} bytes with FUA, not {} and {}", when,
                                 flushes, fua_bytes, world.flushes, world.fua_bytes));
}

// Journal, counters and what clients saw agree.
void Cell::compare_record() {
  std::vector<json> events;
  const json where = *station.call({{"op", "fault.journal"}});
  const json all = *read_journal(where, first_event_, SIZE_MAX);
  for (const json& event : all)
    if (event["rule"] == id_) events.push_back(event);
  if (events.size() != events_.size())
    return record.push_back(fmt::format("{} events, not {}", events.size(), events_.size()));
  for (size_t i = 0; i < events.size(); ++i) compare_event(events[i], events_[i]);
  const json list = *station.call({{"op", "fault.list"}});
  for (const json& rule : list["rules"])
    if (rule["id"] == id_ && (rule["matched"] != world.matched || rule["fired"] != world.fired))
      record.push_back("counters: " + to_line(rule));
  if (list["marks"].value(id_, uint64_t{0}) != world.fired)
    record.push_back("the rule's own mark: " + to_line(list["marks"]));
}

void Cell::compare_event(const json& event, const Event& expected) {
  const Ask& ask = expected.ask;
  bool good = event["op"] == op_name(ask.op) && event["offset_bytes"] == ask.offset &&
              event["length_bytes"] == ask.length && event["match"] == expected.match &&
              event["kind"] == subject.kind && event["front"] == front_name(station.front()) &&
              event["connection"] == expected.connection && !event.contains("corrects") &&
              event.contains("delay_ms") == subject.waits;
  if (good && !subject.waits)
    good = event["requested"] == status_text(expected.status) &&
           event["delivered"] ==
               (expected.wire != nullptr
                    ? std::string(expected.wire)
                    : status_text(delivered(station.front(), ask.op, expected.status)));
  if (!good) record.push_back("journal: " + to_line(event));
}

// Without rules and repaired, the disk is the one that never had a fault.
void Cell::end() {
  const bool marks = std::string_view(subject.kind) == "mark";
  const json list = *station.call({{"op", "fault.list"}});
  if (marks && list["marks"].value("noted-" + id_, uint64_t{0}) != world.fired)
    client.push_back("marks: " + to_line(list["marks"]));
  clear(true);
  call({{"op", "fault.state"}, {"name", "start"}});
  station.advance_ns(k_ns_per_s);
  if (station.settle() != 0) medium.push_back("the flush at the end failed");
  if (const std::string now = station.medium().bytes(); now != world.honest)
    medium.push_back("repaired: " + first_difference(now, world.honest));
  Flight all;
  all.ask.length = k_size;
  station.submit(all);
  if (!station.done(all, k_patience_ms) || all.status != 0 || all.data != world.honest)
    client.push_back("repaired: what is read is not what an honest disk would have");
  if (const json truth = *station.call({{"op", "fault.truth"}}); truth["damaged_bytes"] != 0)
    record.push_back("left over: " + to_line(truth));
}

}  // namespace pv::test::matrix
