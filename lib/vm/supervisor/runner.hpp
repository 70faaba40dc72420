// SPDX-License-Identifier: MIT
// The built-in guest's own way to run commands (lib/guest/runner/pv-runner.cpp has the protocol):
// a third of the time that guest-exec takes, and the end is told instead of asked for. Other guests
// do not have it. What comes from the guest is not trusted. Owned by the supervisor, on its thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/line_channel.hpp"
#include "base/loop.hpp"
#include "base/result.hpp"

namespace pv::vm {

struct RunnerCommand {
  std::vector<std::string> argv;
  std::vector<std::string> env;  // all of it; empty: the runner's own
  std::string input;
  bool has_input = false;
  bool captures = false;
};

class Runner {
 public:
  using Id = uint64_t;
  using Done = std::function<void(Result<json>)>;

  explicit Runner(Loop& loop) : loop_(loop) {}
  ~Runner();

  void connect(Fd fd);
  // The guest has opened or closed its end.
  void port_changed(bool open);
  bool is_ready() const { return !nonce_.empty(); }
  // By what the guest's runner knows its lines; one in a restored guest says no hello again.
  const std::string& nonce() const { return nonce_; }
  void resume(std::string nonce) { nonce_ = std::move(nonce); }
  // Calls back once it has answered, which a guest that does not run never does.
  void ping(std::function<void()> answered);
  // When it last said anything; 0: never.
  uint64_t last_line_ns() const { return last_line_ns_; }

  // `started` gets {"pid"}, or an error in the words that the agent has for it; then `ended` gets
  // what guest-exec-status says of a command that has exited, or why that is not known.
  void start(Id id, const RunnerCommand& command, uint64_t timeout_ns, Done started, Done ended);
  // Nothing is called for it any more.
  void forget(Id id);

 private:
  struct Run {
    std::string program;
    bool captures = false;
    bool is_started = false;
    TimerId timer = 0;  // until it has started
    std::string out, err;
    Done started, ended;
  };
  void on_line(const std::string& line);
  void on_started(Id id, Result<json> result);
  void on_end(Id id, const std::vector<std::string>& words);
  void lose_all();

  Loop& loop_;
  std::unique_ptr<LineChannel> channel_;
  std::string nonce_;  // of the runner that has said hello; empty: there is none
  uint64_t last_line_ns_ = 0;
  TimerId lost_timer_ = 0;
  std::function<void()> answered_;
  std::map<Id, Run> runs_;
};

}  // namespace pv::vm
