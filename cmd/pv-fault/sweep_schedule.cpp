// SPDX-License-Identifier: MIT
#include "sweep_schedule.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>

#include <fmt/format.h>

#include "base/text.hpp"

namespace pv::faultcmd {
namespace {

constexpr const char* k_outcomes[] = {"recovered", "error_reported", "corrupted",
                                      "hung",      "crashed",        "not_reached"};

bool is_bad(const std::string& outcome) {
  return outcome == "corrupted" || outcome == "hung" || outcome == "crashed";
}

// "exit 1", "SIGSEGV", "timed out": a program's end in a cell of the table.
json end_text(const json& program) {
  if (program.is_null()) return program;
  if (get_bool(program, "timed_out")) return "timed out";
  if (const std::string signal = get_string(program, "signal"); !signal.empty()) return signal;
  const uint64_t status = get_u64(program, "exit_status");
  return status == 0 ? "ok" : fmt::format("exit {}", status);
}

// The row of a table that the document comes to.
json row_of(const json& document) {
  const json& fault = document["fault"];
  json row = {{"k", document["k"]}, {"outcome", document["outcome"]}};
  for (const char* key : {"op", "offset_bytes", "length_bytes"})
    row[key] = fault.is_object() ? fault.value(key, json()) : json();
  row["command"] = end_text(document["command"]);
  row["check"] = end_text(document["check"]);
  row["duration_ms"] = document["command"]["duration_ms"];
  if (document.contains("kept")) row["kept"] = document["kept"];
  return row;
}

}  // namespace

Sweep::Sweep(cli::Context& context, Loop& loop, const SweepPlan& plan, const SweepBounds& bounds)
    : context_(context),
      loop_(loop),
      plan_(plan),
      bounds_(bounds),
      next_(bounds.from),
      told_(bounds.from),
      last_(bounds.from + bounds.max - 1) {
  for (const char* outcome : k_outcomes) outcomes_[outcome] = 0;
}

Result<int> Sweep::run() {
  TRY(loop_.on_signals({SIGINT, SIGTERM, SIGHUP}, [this](int number) {
    struct sigaction now {};
    sigaction(number, nullptr, &now);
    if (now.sa_handler == SIG_IGN) return;  // as after nohup(1)
    signal_ = number;
    stop({});
  }));
  // A reader that has gone is known at once, not at the next line. What cannot be watched, as a
  // file, cannot go.
  static_cast<void>(loop_.watch(STDOUT_FILENO, 0, [this](uint32_t) {
    loop_.unwatch(STDOUT_FILENO);
    stop(fail_errno("cannot write to stdout", EPIPE));
  }));
  loop_.post([this] { start_some(); });
  const Result<> looped = loop_.run();
  for (const auto& [k, run] : runs_) run->ask_to_end();
  runs_.clear();
  TRY(looped);
  TRY(result_);
  if (signal_ != 0) return 0;
  TRY(summarise());
  return bad_ ? 1 : 0;
}

void Sweep::stop(Result<> result) {
  if (std::exchange(stopping_, true)) return;
  result_ = std::move(result);
  loop_.stop();
}

bool Sweep::may_start() const {
  return !stopping_ && next_ <= last_ && runs_.size() < bounds_.jobs;
}

void Sweep::start_some() {
  if (!may_start()) return;
  const uint64_t k = next_++;
  auto& run = runs_[k];
  run = std::make_unique<SweepRun>(loop_, plan_, k, [this, k](Result<SweepReport> report) {
    // Not from within the run itself.
    loop_.post([this, k, report = std::move(report)] { on_report(k, report); });
  });
  if (auto started = run->start(); !started) return on_report(k, fail(started.error()));
  loop_.post([this] { start_some(); });  // what happened meanwhile comes first
}

void Sweep::on_report(uint64_t k, Result<SweepReport> report) {
  if (runs_.erase(k) == 0 || stopping_) return;  // ended before it could be told
  const bool is_last = !report || !report->fired;
  reports_.emplace(k, std::move(report));
  if (is_last) {
    last_ = std::min(last_, k);
    end_runs_behind();
  }
  tell_in_order();
  start_some();
}

void Sweep::end_runs_behind() {
  const auto first = runs_.upper_bound(last_);
  for (auto run = first; run != runs_.end(); ++run) run->second->ask_to_end();
  runs_.erase(first, runs_.end());
  reports_.erase(reports_.upper_bound(last_), reports_.end());
}

void Sweep::tell_in_order() {
  while (!stopping_ && !reports_.empty() && reports_.begin()->first == told_) {
    const Result<SweepReport> report = std::move(reports_.begin()->second);
    reports_.erase(reports_.begin());
    ++told_;
    if (!report) return stop(fail(report.error()));
    if (auto told = tell(*report); !told) return stop(fail(told.error()));
  }
  if (told_ > last_) stop({});
}

Result<> Sweep::tell(const SweepReport& report) {
  ++outcomes_[report.outcome];
  bad_ = bad_ || is_bad(report.outcome);
  if (!report.fired) {
    // Where nothing was injected the command has no reason to fail: the sweep has tested nothing.
    stopped_ = report.command_succeeded ? "fewer_than_k" : "fails_without_fault";
    bad_ = bad_ || !report.command_succeeded;
  }
  const bool text = context_.text_output() && !context_.selects_field();
  return context_.emit({{"v", cli::k_document_version},
                        {"sweep", text ? row_of(report.document) : report.document}});
}

Result<> Sweep::summarise() {
  if (context_.selects_field()) return {};
  if (context_.text_output()) TRY(context_.finish());  // the table is one thing, this another
  json outcomes = json::object();
  for (const char* outcome : k_outcomes) outcomes[outcome] = outcomes_[outcome];
  return context_.emit(
      {{"v", cli::k_document_version},
       {"summary",
        {{"runs", told_ - bounds_.from}, {"outcomes", outcomes}, {"stopped", stopped_}}}});
}

}  // namespace pv::faultcmd
