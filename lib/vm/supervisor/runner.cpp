// SPDX-License-Identifier: MIT
#include "vm/supervisor/runner.hpp"

#include <algorithm>
#include <charconv>
#include <sys/wait.h>
#include <system_error>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"

namespace pv::vm {
namespace {

constexpr size_t k_max_output = 16 << 20;  // of one stream; the runner has the same limit
constexpr size_t k_max_nonce = 64;
constexpr int k_wants_output = 1, k_has_input = 2;
constexpr uint64_t k_runner_lost_ns = 3 * k_ns_per_s;

std::string packed(const std::vector<std::string>& strings) {
  std::string bytes;
  for (const std::string& each : strings) bytes.append(each.c_str(), each.size() + 1);
  return base64_encode(bytes);
}

std::optional<uint64_t> number(const std::string& text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

void append(std::string& to, const std::string& text) {
  const auto bytes = base64_decode(text);
  if (bytes) to.append(*bytes, 0, k_max_output - std::min(to.size(), k_max_output));
}

}  // namespace

Runner::~Runner() {
  loop_.cancel(lost_timer_);
  for (const auto& [id, run] : runs_) loop_.cancel(run.timer);
}

void Runner::connect(Fd fd) {
  channel_ = std::make_unique<LineChannel>(
      loop_, std::move(fd),
      LineChannel::Handler{[this](const std::string& line) { on_line(line); },
                           [this](const char*) { nonce_.clear(); }});
}

// A port that closes is also the first sign of a guest that powers off: its end, which follows at
// once, is the better answer.
void Runner::port_changed(bool open) {
  if (open) return;
  nonce_.clear();
  loop_.cancel(lost_timer_);
  lost_timer_ = loop_.after(k_runner_lost_ns, [this] { lose_all(); });
}

void Runner::lose_all() {
  loop_.cancel(std::exchange(lost_timer_, 0));
  const Error error(Code::agent, "what runs commands in the guest has ended, and lost this one");
  for (auto& [id, run] : std::exchange(runs_, {})) {
    loop_.cancel(run.timer);
    (run.is_started ? run.ended : run.started)(fail(error));
  }
}

void Runner::start(Id id, const RunnerCommand& command, uint64_t timeout_ns, Done started,
                   Done ended) {
  Run& run = runs_[id];
  run.program = command.argv.at(0);
  run.captures = command.captures;
  run.started = std::move(started);
  run.ended = std::move(ended);
  run.timer = loop_.after(timeout_ns, [this, id] {
    on_started(id, fail(Code::no_agent, "the guest agent does not answer (is it running?)"));
  });
  const int flags = (command.captures ? k_wants_output : 0) | (command.has_input ? k_has_input : 0);
  channel_->send(fmt::format("run {} {} {} {} {} {}\n", nonce_, id, flags, packed(command.argv),
                             command.env.empty() ? "-" : packed(command.env),
                             command.input.empty() ? "-" : base64_encode(command.input)));
}

void Runner::ping(std::function<void()> answered) {
  answered_ = std::move(answered);
  channel_->send(fmt::format("ping {}\n", nonce_));
}

void Runner::forget(Id id) {
  const auto found = runs_.find(id);
  if (found == runs_.end()) return;
  loop_.cancel(found->second.timer);
  runs_.erase(found);
}

void Runner::on_line(const std::string& line) {
  const std::vector<std::string> words = split(line, ' ');
  last_line_ns_ = system_clock().now_ns();
  if (words.size() == 2 && words[0] == "hello") {
    if (!runs_.empty()) lose_all();  // it knows nothing of them
    nonce_ = words[1].substr(0, k_max_nonce);
    return;
  }
  if (words.size() == 2 && words[0] == "pong" && answered_) return std::exchange(answered_, {})();
  const auto id = words.size() >= 3 ? number(words[1]) : std::nullopt;
  const auto found = id ? runs_.find(*id) : runs_.end();
  if (found == runs_.end()) return;
  const std::string& what = words[0];
  if (what == "out" || what == "err") {
    append(what == "out" ? found->second.out : found->second.err, words[2]);
  } else if (const auto value = number(words[2]); value && what == "start") {
    on_started(*id, json({{"pid", *value}}));
  } else if (value && what == "fail") {
    // In the words of the agent, which start_failure() knows.
    on_started(*id, fail(Code::agent,
                         fmt::format("guest agent: Failed to execute child process “{}” ({})",
                                     found->second.program,
                                     std::generic_category().message(static_cast<int>(*value)))));
  } else if (value && what == "end") {
    on_end(*id, words);
  }
}

void Runner::on_started(Id id, Result<json> result) {
  const auto found = runs_.find(id);
  if (found == runs_.end() || found->second.is_started) return;
  loop_.cancel(std::exchange(found->second.timer, 0));
  found->second.is_started = true;
  const Done started = std::move(found->second.started);
  if (!result) runs_.erase(found);
  started(std::move(result));
}

void Runner::on_end(Id id, const std::vector<std::string>& words) {
  const auto found = runs_.find(id);
  if (found == runs_.end() || !found->second.is_started) return;
  const Run run = std::move(found->second);
  runs_.erase(found);
  const int how = static_cast<int>(number(words[2]).value_or(0));
  json status = {{"exited", true}};
  if (WIFSIGNALED(how))
    status["signal"] = WTERMSIG(how);
  else
    status["exitcode"] = WEXITSTATUS(how);
  const auto add = [&](const std::string& bytes, size_t cut, const char* data, const char* flag) {
    if (!bytes.empty()) status[data] = base64_encode(bytes);
    if (words.size() > cut && words[cut] == "1") status[flag] = true;
  };
  if (run.captures) {
    add(run.out, 3, "out-data", "out-truncated");
    add(run.err, 4, "err-data", "err-truncated");
  }
  run.ended(std::move(status));
}

}  // namespace pv::vm
