// SPDX-License-Identifier: MIT
#include "vm/supervisor/guest_run.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"

namespace pv::vm {
namespace {

constexpr size_t k_max_runs = 256;
constexpr uint64_t k_agent_ns = 30 * k_ns_per_s;  // for one answer, however loaded the host is
// Under TCG a question costs the guest about as much as starting `true` does, so asking more often
// than this makes everything slower (measured).
constexpr uint64_t k_first_poll_ns = 3 * k_ns_per_ms;
constexpr uint64_t k_max_poll_ns = 50 * k_ns_per_ms;
// Where the end shows otherwise, as streams that were closed.
constexpr uint64_t k_first_stream_poll_ns = 20 * k_ns_per_ms;
constexpr uint64_t k_max_stream_poll_ns = k_ns_per_s;
constexpr uint64_t k_after_kill_ns = 2 * k_ns_per_s;

// Kills a process and everything below it: stopped first, so that nothing new is forked meanwhile.
constexpr const char* k_kill_tree =
    "t() { kill -STOP $1; for d in /proc/[0-9]*; do "
    "if read -r _ _ _ p _ <$d/stat && [ \"$p\" = $1 ]; then t ${d#/proc/}; fi; done; "
    "kill -KILL $1; }; t $1";

bool has_key(const std::vector<std::string>& env, std::string_view key) {
  for (const std::string& entry : env)
    if (entry.rfind(key, 0) == 0) return true;
  return false;
}

// guest-exec replaces the whole environment when it is given one.
std::vector<std::string> full_environment(std::vector<std::string> env) {
  if (!has_key(env, "PATH=")) env.emplace_back("PATH=/usr/sbin:/usr/bin:/sbin:/bin");
  if (!has_key(env, "HOME=")) env.emplace_back("HOME=/root");
  return env;
}

}  // namespace

json run_document(const std::vector<std::string>& argv, const json& status) {
  json run = {{"argv", argv}};
  if (const json* signal = find(status, "signal"); signal && signal->is_number_integer()) {
    run["exit_status"] = 128 + signal->get<int64_t>();  // as a shell puts it
    run["signal"] = *signal;
  } else {
    const json* code = find(status, "exitcode");
    run["exit_status"] = code && code->is_number_integer() ? code->get<int64_t>() : -1;
  }
  const auto output = [&](const char* from, const char* to) {
    auto bytes = base64_decode(get_string(status, from));
    set_text(run, to, bytes ? *bytes : std::string());
  };
  output("out-data", "stdout");
  output("err-data", "stderr");
  if (get_bool(status, "out-truncated")) run["stdout_truncated"] = true;
  if (get_bool(status, "err-truncated")) run["stderr_truncated"] = true;
  const json* duration = find(status, "duration_ms");
  run["duration_ms"] = duration && duration->is_number() ? *duration : json(0.0);
  return run;
}

std::string last_words(const json& run, std::string otherwise) {
  std::string words = get_string(run, "stderr");
  while (!words.empty() && words.back() == '\n') words.pop_back();
  return words.empty() ? std::move(otherwise) : words;
}

std::optional<json> start_failure(const std::vector<std::string>& argv, std::string_view message) {
  struct Row {
    const char* words;
    int status;
    const char* say;
  };
  // GLib's words for a failed exec come from the guest's strerror(3); qemu-ga runs in the C locale.
  static constexpr Row rows[] = {{"No such file or directory", 127, "not found in the guest"},
                                 {"Permission denied", 126, "permission denied in the guest"},
                                 {"Exec format error", 126, "not a program the guest can run"},
                                 {"Text file busy", 126, "open for writing in the guest"},
                                 {"Is a directory", 126, "is a directory"}};
  if (message.find("execute child") == std::string_view::npos) return std::nullopt;
  for (const Row& row : rows) {
    if (message.find(row.words) == std::string_view::npos) continue;
    json run = {{"argv", argv}, {"exit_status", row.status}};
    set_text(run, "stdout", "");
    set_text(run, "stderr", fmt::format("pv-vm run: {}: {}\n", argv.at(0), row.say));
    run["duration_ms"] = 0.0;
    return run;
  }
  return std::nullopt;
}

GuestRuns::~GuestRuns() {
  for (const auto& [id, run] : runs_) {
    loop_.cancel(run.poll);
    loop_.cancel(run.deadline);
  }
}

GuestRuns::Id GuestRuns::start(GuestCommand command, JsonReply done) {
  const Id id = ++last_id_;
  if (command.argv.empty() || runs_.size() >= k_max_runs) {
    done(command.argv.empty() ? fail(Code::invalid, "no command to run")
                              : fail(Code::agent, "too many commands are running in the guest"));
    return id;
  }
  Run& run = runs_[id];
  const uint64_t timeout_ns = command.timeout_ns;
  run.command = std::move(command);
  run.done = std::move(done);
  run.started_ns = system_clock().now_ns();
  run.deadline = loop_.after(timeout_ns, [this, id] { expired(id); });
  // A little longer than the command's own limit, so that a start that comes late is seen and
  // undone; but a command may run for days, and an agent that is not there should show soon.
  const uint64_t start_ns = std::min(timeout_ns + k_after_kill_ns, k_agent_ns);
  // A guest whose agent has gone away is one without: killing a command needs it, for one.
  if (runner_.is_ready() && agent_.is_ready())
    start_by_runner(id, run, start_ns);
  else
    start_by_agent(id, run, start_ns);
  return id;
}

void GuestRuns::start_by_runner(Id id, Run& run, uint64_t timeout_ns) {
  GuestCommand& command = run.command;
  run.has_runner = true;
  RunnerCommand ours;
  ours.argv = command.argv;
  if (!command.env.empty()) ours.env = full_environment(command.env);
  ours.input = std::exchange(command.input, {});
  ours.has_input = command.has_input;
  ours.captures = !command.streams;
  runner_.start(
      id, ours, timeout_ns, [this, id](Result<json> result) { started(id, std::move(result)); },
      [this, id](Result<json> result) { answered(id, std::move(result)); });
}

void GuestRuns::start_by_agent(Id id, Run& run, uint64_t timeout_ns) {
  GuestCommand& command = run.command;
  json arguments = {{"path", command.argv[0]}, {"capture-output", !command.streams}};
  arguments["arg"] = std::vector<std::string>(command.argv.begin() + 1, command.argv.end());
  if (!command.env.empty()) arguments["env"] = full_environment(command.env);
  if (command.has_input) arguments["input-data"] = base64_encode(std::exchange(command.input, {}));
  agent_.call("guest-exec", std::move(arguments), timeout_ns,
              [this, id](Result<json> result) { started(id, std::move(result)); });
}

bool GuestRuns::has_answered(const Run& run) const {
  const uint64_t last_ns = run.has_runner ? runner_.last_line_ns() : agent_.last_answer_ns();
  return agent_.is_ready() && last_ns >= run.started_ns;
}

void GuestRuns::started(Id id, Result<json> result) {
  const auto found = runs_.find(id);
  if (found == runs_.end()) return;
  Run& run = found->second;
  if (!result) return finish(id, fail(result.error()));
  const json* pid = find(*result, "pid");
  if (!pid || !pid->is_number_integer())
    return finish(id, fail(Code::agent, "guest agent: guest-exec gave no pid"));
  run.pid = pid->get<int64_t>();
  if (run.abandoned || run.timed_out) return expired(id);
  if (run.has_runner) return;
  run.poll = loop_.after(run.command.streams ? k_first_stream_poll_ns : k_first_poll_ns,
                         [this, id] { ask(id); });
}

void GuestRuns::ask(Id id) {
  const auto found = runs_.find(id);
  if (found == runs_.end()) return;
  found->second.poll = 0;
  agent_.call("guest-exec-status", {{"pid", found->second.pid}}, k_agent_ns,
              [this, id](Result<json> result) { answered(id, std::move(result)); });
}

void GuestRuns::answered(Id id, Result<json> result) {
  const auto found = runs_.find(id);
  if (found == runs_.end()) return;
  Run& run = found->second;
  if (!result) {
    const bool forgotten = result.error().message.find("'pid'") != std::string::npos;
    if (!forgotten) return finish(id, fail(result.error()));
    return finish(id, fail(Code::agent, "the guest agent was restarted and has lost the command"));
  }
  const uint64_t age_ns = system_clock().now_ns() - run.started_ns;
  if (get_bool(*result, "exited")) {
    (*result)["duration_ms"] = static_cast<double>(age_ns / 1000) / 1000;
    if (!run.timed_out) return finish(id, std::move(result));
    const Error error(
        Code::timeout,
        fmt::format("'{}' has not ended in time and was killed in the guest", run.command.argv[0]));
    return finish(id, fail(error.with("status", std::move(*result))));
  }
  const uint64_t pause_ns =
      run.command.streams && !run.timed_out
          ? std::clamp(age_ns / 8, k_first_stream_poll_ns, k_max_stream_poll_ns)
          : std::clamp(age_ns / 8, k_first_poll_ns, k_max_poll_ns);
  run.poll = loop_.after(pause_ns, [this, id] { ask(id); });
}

void GuestRuns::kill_tree(int64_t pid) {
  json arguments = {{"path", "/bin/sh"},
                    {"arg", {"-c", k_kill_tree, "sh", std::to_string(pid)}},
                    {"capture-output", false}};
  agent_.call("guest-exec", std::move(arguments), k_agent_ns, [](Result<json>) {});
}

void GuestRuns::expired(Id id) {
  const auto found = runs_.find(id);
  if (found == runs_.end()) return;
  Run& run = found->second;
  run.timed_out = true;
  if (run.pid == 0) {
    // Answered now; if the command starts all the same, started() comes back here to kill it.
    if (run.abandoned) return;
    run.abandoned = true;
    const JsonReply done = std::move(run.done);
    return done(has_answered(run)
                    ? fail(Code::timeout, "the command was not started in the guest in time")
                    : fail(Code::no_agent, "the guest agent does not answer (is it running?)"));
  }
  kill_tree(run.pid);
  // It is asked on, to collect what it printed and to know when it has ended; but not for ever.
  loop_.cancel(run.deadline);
  run.deadline = loop_.after(k_after_kill_ns, [this, id] {
    finish(id, fail(Code::timeout,
                    "the command has not ended in time, nor when it was told to be "
                    "killed in the guest"));
  });
  loop_.cancel(run.poll);
  if (!run.has_runner) ask(id);
}

void GuestRuns::abandon(Id id, uint64_t grace_ns, std::function<void()> gone) {
  const auto found = runs_.find(id);
  if (found == runs_.end()) return gone();
  Run& run = found->second;
  run.abandoned = true;
  run.gone = std::move(gone);
  if (grace_ns == 0 || run.pid == 0) return expired(id);
  loop_.cancel(run.deadline);
  run.deadline = loop_.after(grace_ns, [this, id] { expired(id); });
}

void GuestRuns::ask_now(Id id) {
  const auto found = runs_.find(id);
  if (found == runs_.end() || found->second.pid == 0 || found->second.poll == 0) return;
  loop_.cancel(std::exchange(found->second.poll, 0));
  ask(id);
}

void GuestRuns::fail_all(const Error& error) {
  while (!runs_.empty()) finish(runs_.begin()->first, fail(error));
}

void GuestRuns::finish(Id id, Result<json> result) {
  const auto found = runs_.find(id);
  if (found == runs_.end()) return;
  Run run = std::move(found->second);
  runs_.erase(found);
  loop_.cancel(run.poll);
  loop_.cancel(run.deadline);
  if (run.has_runner) runner_.forget(id);
  if (!run.abandoned) run.done(std::move(result));
  if (run.gone) run.gone();
}

}  // namespace pv::vm
