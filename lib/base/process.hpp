// SPDX-License-Identifier: MIT
// Child processes and the identity of processes that are not our children. A process is always
// named by pid *and* start time, so that a reused pid is never mistaken for the one we started.
#pragma once

#include <csignal>
#include <functional>
#include <optional>
#include <string>
#include <sys/types.h>
#include <vector>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "base/result.hpp"

namespace pv {

struct ProcessId {
  pid_t pid = 0;
  uint64_t start_ticks = 0;  // field 22 of /proc/PID/stat, proc(5)
};

// Identity of a running process, or nullopt when there is none (zombies count as none).
std::optional<ProcessId> identify(pid_t pid);
bool is_alive(const ProcessId& id);
// What proc(5) has in the stat file of /proc/PID or of one of its threads, from the third field on
// (the state); empty when there is none.
std::vector<std::string> stat_fields(const std::string& proc);

// SIGTERM, then SIGKILL after `grace`; waits until the process is gone. A pidfd is held throughout.
// Returns true when SIGKILL was needed.
Result<bool> terminate(const ProcessId& id, uint64_t grace_ns);

struct ExitStatus {
  int code = 0;                  // exit code when it exited
  int signal = 0;                // signal number when it was killed
  std::string describe() const;  // "exit status 1", "killed by signal 9 (Killed)"
};

// Gives the pages of programs and libraries back that were only needed to start: what is used again
// is mapped again from the page cache. For processes that live long and do little.
void forget_clean_pages();

// What a new process gets. Descriptors not named here are closed in the child.
struct SpawnOptions {
  std::vector<std::string> argv;  // argv[0] is looked up in PATH; never given to a shell
  int stdin_fd = -1;              // -1: /dev/null
  int stdout_fd = -1;
  int stderr_fd = -1;
  std::vector<std::pair<int, int>> fds;  // (ours, number in the child), child numbers >= 3
  bool die_with_parent = true;           // PR_SET_PDEATHSIG
  int death_signal = SIGKILL;            // what it then gets
  std::vector<std::string> env;          // "KEY=VALUE", in place of or beside what we have
  bool own_group = false;                // leads a process group: its pid is the group's
};

// A child of this process. Destroying it kills and reaps it: no child outlives its owner by
// accident. Move-only.
class Child {
 public:
  Child() = default;
  Child(Child&& other) noexcept;
  Child& operator=(Child&& other) noexcept;
  ~Child();

  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_.get(); }
  explicit operator bool() const { return pid_ > 0; }
  void kill(int signal);
  // Waits for the end; Code::timeout when it does not come.
  Result<ExitStatus> wait(const Deadline& deadline);
  // Gives up ownership: the process goes on without us.
  pid_t release();

 private:
  friend Result<Child> spawn(const SpawnOptions& options);
  pid_t pid_ = 0;
  Fd pidfd_;
};

// Starts a program. Code::unavailable when argv[0] is not found, Code::system otherwise.
Result<Child> spawn(const SpawnOptions& options);

struct Output {
  ExitStatus status;
  std::string out, err;  // each cut at 1 MiB
};

// Runs a program to its end and collects what it printed.
Result<Output> run_program(const std::vector<std::string>& argv, const Deadline& deadline);

// Forks a daemon: `body` runs in a new session with stdio on /dev/null and stderr in `log_path`,
// every other descriptor closed, and its return value is the exit code. The parent gets the pid.
// `ready` in the child is a pipe to the parent: write to it, then close. A descriptor to `keep` is
// number k_kept_fd there, and the body's to close.
constexpr int k_kept_fd = 4;
struct Daemon {
  ProcessId id;
  Fd ready;  // parent's end: reads what the child reported, EOF when it died
};
Result<Daemon> start_daemon(const std::string& log_path, const std::function<int(Fd ready)>& body,
                            int keep = -1);

// Reads `ready` to its end: the one message a daemon sends when it is up or has failed.
Result<std::string> read_ready(const Daemon& daemon, const Deadline& deadline);

}  // namespace pv
