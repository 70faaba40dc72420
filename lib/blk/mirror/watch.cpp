// SPDX-License-Identifier: MIT
#include "blk/mirror/watch.hpp"

#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"

namespace pv::blk {
namespace {

constexpr uint64_t k_journal_delay_ns = 50 * k_ns_per_ms;  // until a line is in its file
constexpr uint64_t k_stop_ns = 2 * k_ns_per_s;             // for a VM to be stopped
constexpr uint64_t k_min_journal = 1 << 20, k_max_journal = 16ULL << 30;
constexpr uint64_t k_max_hold_ns = 24 * 3600 * k_ns_per_s;
constexpr const char* k_policies[] = {"report", "eio", "hold", "stop_vm"};

}  // namespace

Result<Watch::Options> Watch::parse(const LayerSpec& layer) {
  Options options;
  const auto wrong = [&](const char* key, const std::string& value, const char* wanted) {
    return fail(Code::usage,
                fmt::format("layer '{}': {}={} is not {}", layer.name, key, value, wanted));
  };
  for (const auto& [key, value] : layer.params) {
    if (key == "on-mismatch") {
      const auto found = std::find(std::begin(k_policies), std::end(k_policies), value);
      if (found == std::end(k_policies))
        return wrong(key.c_str(), value, "one of report, eio, hold and stop_vm");
      options.policy = static_cast<Policy>(found - std::begin(k_policies));
    } else if (key == "hold") {
      const auto time = parse_duration(value);
      if (!time || *time == 0 || *time > k_max_hold_ns)
        return wrong(key.c_str(), value, "a duration up to a day");
      options.hold_ns = *time;
    } else if (key == "journal") {
      const auto size = parse_size(value);
      if (!size || *size < k_min_journal || *size > k_max_journal)
        return wrong(key.c_str(), value, "a size from 1M to 16G");
      options.journal_bytes = *size;
    }
  }
  return options;
}

Watch::Watch(const Env& env, const Options& options)
    : env_(env),
      options_(options),
      started_ns_(env.clock.now_ns()),
      began_wall_ns_(env.clock.wall_ns()),
      journal_(env.dir, "verify", options.journal_bytes) {}

Watch::~Watch() {
  if (journal_timer_ != 0) env_.timers.cancel(journal_timer_);
  for (const auto& [ticket, held] : held_)
    if (held.timer != 0) env_.timers.cancel(held.timer);
}

uint64_t Watch::mismatches() const {
  uint64_t sum = 0;
  for (const uint64_t count : by_class_) sum += count;
  return sum;
}

uint64_t Watch::add(json record) {
  if (journal_timer_ == 0)
    journal_timer_ = env_.timers.after(k_journal_delay_ns, [this] {
      journal_timer_ = 0;
      journal_.write_out();
    });
  return journal_.add_line([&](std::string& out, uint64_t number) {
    json line = {{"n", number}, {"t_ns", now_ns()}};
    line.update(record);
    out += line.dump(-1, ' ', false, json::error_handler_t::replace);
  });
}

void Watch::found(Damage damage, json record, Asker* asker) {
  ++by_class_[static_cast<size_t>(damage)];
  record["policy"] = k_policies[static_cast<int>(options_.policy)];
  const json request = record["request"];
  add(std::move(record));
  answer(request, asker);
  if (env_.on_fault) env_.on_fault();
}

void Watch::status(json record, bool known, Asker* asker) {
  ++(known ? known_statuses_ : statuses_);
  if (!known) record["policy"] = k_policies[static_cast<int>(options_.policy)];
  const json request = record["request"];
  add(std::move(record));
  if (!known)
    answer(request, asker);
  else if (asker != nullptr)
    asker->go(*asker, 0);
  if (env_.on_fault) env_.on_fault();
}

void Watch::note(json record) {
  add(std::move(record));
  if (env_.on_fault) env_.on_fault();
}

void Watch::set_broken(int error) {
  if (broken_ != 0) return;
  broken_ = error;
  note({{"kind", "broken"}, {"error", errno_name(error)}});
}

void Watch::answer(const json& request, Asker* asker) {
  if (options_.policy == Policy::stop_vm) stop_wanted_ = true;
  if (asker == nullptr) return;
  switch (options_.policy) {
    case Policy::report:
      return asker->go(*asker, 0);
    case Policy::eio:
      return asker->go(*asker, EIO);
    case Policy::hold:
      return hold(request, *asker, options_.hold_ns, false);
    case Policy::stop_vm:
      return hold(request, *asker, k_stop_ns, true);
  }
}

void Watch::hold(const json& request, Asker& asker, uint64_t ns, bool for_stop) {
  const uint64_t ticket = ++last_ticket_;
  const TimerId timer = env_.timers.after(ns, [this, ticket] {
    held_.at(ticket).timer = 0;
    ++timed_out_;
    let_go(ticket, 0);
  });
  held_[ticket] = {&asker, timer, now_ns(), request, for_stop};
}

void Watch::let_go(uint64_t ticket, int error) {
  const auto found = held_.find(ticket);
  if (found == held_.end()) return;
  if (found->second.timer != 0) env_.timers.cancel(found->second.timer);
  Asker& asker = *found->second.asker;
  held_.erase(found);
  asker.go(asker, error);
}

void Watch::end_held(int error) {
  while (!held_.empty()) let_go(held_.begin()->first, error);
}

json Watch::held() const {
  json rows = json::array();
  for (const auto& [ticket, held] : held_) {
    json row = {{"ticket", ticket}};
    row.update(held.request);
    row["held_ms"] = static_cast<double>(now_ns() - held.since_ns) / 1e6;
    rows.push_back(std::move(row));
  }
  return json{{"held", rows}};
}

Result<json> Watch::release(const json& request) {
  std::vector<uint64_t> tickets;
  if (const json* named = pv::find(request, "tickets"); named != nullptr && !named->empty()) {
    for (const json& ticket : *named)
      tickets.push_back(ticket.is_number_unsigned() ? ticket.get<uint64_t>() : 0);
  } else {
    for (const auto& [ticket, held] : held_) tickets.push_back(ticket);
  }
  const std::string name = get_string(request, "error");
  const int error = name.empty() ? 0 : errno_from_name(name);
  if (!name.empty() && error == 0)
    return fail(Code::usage, fmt::format("'{}' is no errno", printable(name)));
  for (const uint64_t ticket : tickets)
    if (held_.count(ticket) == 0)
      return fail(Code::invalid, fmt::format("no request {} is held", ticket));
  for (const uint64_t ticket : tickets) let_go(ticket, error);
  return json{{"released", tickets}};
}

json Watch::stopped(const json& request) {
  json record = {{"kind", "stop"}, {"vm", request.value("vm", json())}};
  if (const json* error = find(request, "error")) record["error"] = *error;
  if (get_bool(request, "told")) note(std::move(record));
  std::vector<uint64_t> tickets;
  for (const auto& [ticket, held] : held_)
    if (held.for_stop) tickets.push_back(ticket);
  for (const uint64_t ticket : tickets) let_go(ticket, 0);
  return json::object();
}

json Watch::shown() const {
  json by_class = json::object();
  for (int i = 0; i < k_damages; ++i)
    by_class[damage_name(static_cast<Damage>(i))] = by_class_[static_cast<size_t>(i)];
  return {{"state", broken() ? "broken" : "comparing"},
          {"error", broken() ? json(errno_name(broken_)) : json()},
          {"policy", k_policies[static_cast<int>(options_.policy)]},
          {"mismatches", mismatches()},
          {"by_class", by_class},
          {"status_differences", statuses_},
          {"status_differences_by_rule", known_statuses_},
          {"events", journal_.last()},
          {"held", held_.size()},
          {"held_too_long", timed_out_}};
}

std::optional<Result<json>> Watch::control(const json& request) {
  const std::string op = get_string(request, "op");
  if (op == "verify.status") return json{{"verify", shown()}};
  if (op == "verify.journal") {
    json where = journal_.where();
    where["began_ns"] = std::to_string(began_wall_ns_);
    return where;
  }
  if (op == "verify.held") return held();
  if (op == "verify.release") return release(request);
  if (op == "verify.stop_wanted") return json{{"wanted", std::exchange(stop_wanted_, false)}};
  if (op == "verify.stopped") return stopped(request);
  if (op == "fault.stop") end_held(0);  // the server ends
  if (op == "power.off") end_held(ECANCELED);
  return std::nullopt;
}

}  // namespace pv::blk
