// SPDX-License-Identifier: MIT
// Commands run in the guest: by the runner where there is one (runner.hpp), and else through
// qemu-ga: guest-exec starts one, guest-exec-status tells when it has ended and what it printed.
// qemu-ga has no event for the end, so it is asked again after pauses that grow with the age of
// the command: `true` costs one or two questions, a command that runs for an hour 20 a second.
// Owned by the supervisor, on its thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "vm/supervisor/agent.hpp"
#include "vm/supervisor/runner.hpp"

namespace pv::vm {

struct GuestCommand {
  std::vector<std::string> argv;
  std::vector<std::string> env;  // "K=V", on top of a plain PATH and HOME; empty: the agent's own
  std::string input;             // stdin; empty: /dev/null
  bool has_input = false;
  std::string directory;  // "": the agent's own
  std::string user;       // "": root
  bool streams = false;   // over data ports (data_ports.hpp): nothing is captured
  uint64_t timeout_ns = 0;
};

class GuestRuns {
 public:
  using Id = uint64_t;
  GuestRuns(Loop& loop, Agent& agent, Runner& runner)
      : loop_(loop), agent_(agent), runner_(runner) {}
  ~GuestRuns();

  // `done` is called exactly once: with the agent's last answer to guest-exec-status and the key
  // "duration_ms"; with Code::agent when the guest cannot start it (see start_failure()); or with
  // Code::timeout after the deadline, when the guest process and its children have been killed, and
  // then with that answer under "status" if there is one. Output stays base64 up to the command
  // that asked, where it is turned into a document by run_document().
  Id start(GuestCommand command, JsonReply done);
  // Kills the guest process, after `grace_ns` unless it has ended by then; done() is not called,
  // but `gone` once the process has ended, or a little later where that cannot be seen.
  void abandon(Id id, uint64_t grace_ns, std::function<void()> gone);
  // It seems to have ended: asks about it without waiting for its turn.
  void ask_now(Id id);
  // Answers all of them with `error`.
  void fail_all(const Error& error);
  // How many are running.
  size_t count() const { return runs_.size(); }

 private:
  struct Run {
    GuestCommand command;
    JsonReply done;
    std::function<void()> gone;
    uint64_t started_ns = 0;
    int64_t pid = 0;  // in the guest; 0 until guest-exec has answered
    TimerId poll = 0, deadline = 0;
    bool has_runner = false;
    bool timed_out = false;
    bool abandoned = false;
  };
  void start_by_runner(Id id, Run& run, uint64_t timeout_ns);
  void start_by_agent(Id id, Run& run, uint64_t timeout_ns);
  bool has_answered(const Run& run) const;
  void started(Id id, Result<json> result);
  void ask(Id id);
  void answered(Id id, Result<json> result);
  void expired(Id id);
  void kill_tree(int64_t pid);
  void finish(Id id, Result<json> result);

  Loop& loop_;
  Agent& agent_;
  Runner& runner_;
  std::map<Id, Run> runs_;
  Id last_id_ = 0;
};

// The `run` object of a document from an answer to guest-exec-status.
json run_document(const std::vector<std::string>& argv, const json& status);
// What a command that failed has written to stderr, or `otherwise` where that is nothing.
std::string last_words(const json& run, std::string otherwise);
// What a shell would report for a command that did not start: 127, 126; nullopt when the agent's
// words mean something else.
std::optional<json> start_failure(const std::vector<std::string>& argv, std::string_view message);

}  // namespace pv::vm
