// SPDX-License-Identifier: MIT
// One program of a sweep: the command or the check. It leads a process group of its own, its output
// is read as it comes and only the end of it kept, and whoever it leaves in its group ends with it.
// Belongs to one run, on the thread of its Loop.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/json_fwd.hpp"
#include "base/loop.hpp"
#include "base/process.hpp"
#include "base/result.hpp"

namespace pv::faultcmd {

// The last bytes of what a program printed.
class Tail {
 public:
  void add(std::string_view bytes);
  std::string text() const;

 private:
  std::string bytes_;
  bool cut_ = false;
};

struct Ended {
  ExitStatus status;
  bool timed_out = false;
  uint64_t duration_ns = 0;
  std::string out, err;

  bool succeeded() const { return !timed_out && status.code == 0 && status.signal == 0; }
  // As a shell says it: the exit status, or 128 and the signal.
  int shell_status() const { return status.signal != 0 ? 128 + status.signal : status.code; }
  json to_json() const;
};

class Program {
 public:
  // Called once from the loop; the program may be destroyed in it.
  using Done = std::function<void(Result<Ended>)>;

  // `env` is set beside our own environment. After `timeout_ns` the group is told to end, and a
  // little later killed.
  static Result<std::unique_ptr<Program>> start(Loop& loop, std::vector<std::string> argv,
                                                std::vector<std::string> env, uint64_t timeout_ns,
                                                Done done);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  // Asks the group to end, so that several can do so at the same time before they are destroyed.
  void ask_to_end();

 private:
  struct Pipe {
    Fd in;
    Tail tail;
  };

  Program(Loop& loop, Done done) : loop_(loop), done_(std::move(done)) {}
  Result<> launch(std::vector<std::string> argv, std::vector<std::string> env);
  Result<Fd> open_pipe(Pipe& pipe);
  void receive(Pipe& pipe);
  void close_pipe(Pipe& pipe);
  bool group_remains() const;
  void on_timeout();
  void on_exit();
  void settle();
  void finish();
  void end_now();
  void wait_for_group(uint64_t until_ns);

  Loop& loop_;
  Done done_;
  Child child_;
  pid_t group_ = 0;  // 0 once nobody is left in it
  Pipe out_, err_;
  TimerId timer_{};
  uint64_t started_ns_ = 0;
  uint64_t kill_at_ns_ = 0;  // 0 until the group was asked to end
  Ended ended_;
};

// Ends what a run has started outside its process group: processes below us that have this entry
// in their environment. We must be their subreaper, prctl(2).
void end_strays(const std::string& entry);

}  // namespace pv::faultcmd
