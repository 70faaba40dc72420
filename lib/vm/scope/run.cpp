// SPDX-License-Identifier: MIT
// `scope run`: a command, the process that waits for it (the runner), and a guardian that waits for
// the runner. The guardian holds the writing end of a pipe whose reading end only the runner has:
// the kernel tells it when the runner is no more, however it ended.
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include <fmt/format.h>

#include "base/defer.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "vm/scope/scope.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_run_grace_ns =
    5 * k_ns_per_s;  // between telling the command to end and killing it
constexpr int k_not_found = 127, k_not_executable = 126;
constexpr int k_by_signal = 128;

// Blocks until the runner has gone, then does what it can no longer do.
int guard(const RunDir& run, const std::string& path, const Fd& runner, uint64_t teardown_ns) {
  prctl(PR_SET_NAME, "pv-vm-guard");
  for (const int signal_number : {SIGTERM, SIGINT, SIGQUIT}) signal(signal_number, SIG_IGN);
  pollfd gone{runner.get(), 0, 0};
  while (poll(&gone, 1, -1) < 0 && errno == EINTR) {
  }
  const Teardown done = tear_down(run, path, Ends::everything, Deadline::in_ns(teardown_ns));
  return done.error ? exit_class(done.error->code) : 0;
}

// Who runs a scope that is in use, in words.
std::string runner_of(const Object& scope, const std::string& path) {
  const auto state = scope.load();
  const json* runner = state ? find(*state, "runner") : nullptr;
  const ProcessId process = runner ? process_from_json(*runner) : ProcessId{};
  const std::string who = scope.scope == path ? "it" : fmt::format("scope '{}' in it", scope.scope);
  if (!runner) return fmt::format("a command has just begun to run {}", who);
  if (is_alive(process)) return fmt::format("{} is run by process {}", who, process.pid);
  return fmt::format("the command of {} has gone; close it first", who);
}

// Makes the scope ours. Its object is what two runners of one name fight for.
Result<Object> claim(const RunDir& run, const std::string& path) {
  if (const auto run_there = objects_within(run, "scope", path); !run_there.empty())
    return fail(Code::duplicate_name,
                fmt::format("scope '{}' is in use: {}", path, runner_of(run_there.front(), path)));
  for (const char* kind : kinds_in_scope())
    if (const auto there = objects_within(run, kind, path); !there.empty())
      return fail(Code::duplicate_name,
                  fmt::format("scope '{}' is in use: it has {} '{}'; close it first", path, kind,
                              there.front().display()));
  // Its name differs from those of all outer scopes, which a lookup would find too.
  const std::string name = fmt::format("level{}", split(path, '/').size());
  auto object = run.create("scope", "", name);
  if (!object && object.error().code == Code::duplicate_name)
    return fail(Code::duplicate_name, fmt::format("scope '{}' is in use", path));
  TRY(object);
  const ProcessId self = identify(getpid()).value_or(ProcessId{getpid(), 0});
  if (auto saved = object->save({{"runner", process_to_json(self)}}); !saved) {
    run.remove(*object);
    return fail(saved.error());
  }
  return object;
}

// What tells us to end; blocked from now on, so that we see it and the command gets its due.
class Signals {
 public:
  Signals() {
    sigemptyset(&set_);
    for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGQUIT}) {
      struct sigaction now {};
      sigaction(number, nullptr, &now);
      if (now.sa_handler != SIG_IGN) sigaddset(&set_, number);  // nohup(1) stays in force
    }
    sigprocmask(SIG_BLOCK, &set_, &before_);
    fd_.reset(signalfd(-1, &set_, SFD_CLOEXEC | SFD_NONBLOCK));
  }
  ~Signals() { sigprocmask(SIG_SETMASK, &before_, nullptr); }
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  int fd() const { return fd_.get(); }
  // The signal that came, 0 for none. Those that a terminal sends have reached the command too.
  struct Came {
    int number = 0;
    bool from_terminal = false;
  };
  Came next() const {
    signalfd_siginfo info{};
    if (read(fd_.get(), &info, sizeof info) != static_cast<ssize_t>(sizeof info)) return {};
    return {static_cast<int>(info.ssi_signo), info.ssi_code == SI_KERNEL};
  }

 private:
  sigset_t set_{}, before_{};
  Fd fd_;
};

// Waits for the command. A signal of ours is passed on, and then the command has to end.
Result<int> wait_for(Child& command, const Signals& signals) {
  int told = 0;
  std::optional<Deadline> grace;
  while (true) {
    pollfd waits[] = {{command.pidfd(), POLLIN, 0}, {signals.fd(), POLLIN, 0}};
    const int n = poll(waits, 2, grace ? grace->left_ms() : -1);
    if (n < 0 && errno != EINTR) return fail_errno("poll", errno);
    if (n == 0) command.kill(SIGKILL);
    if (n == 0) grace.reset();
    if (waits[0].revents != 0) break;
    const Signals::Came came = signals.next();
    if (came.number == 0 || came.from_terminal) continue;
    told = came.number;
    command.kill(grace ? SIGKILL : came.number);  // who asks twice means it
    command.kill(SIGCONT);
    if (!grace) grace = Deadline::in_ns(k_run_grace_ns);
  }
  TRY_ASSIGN(const ExitStatus status, command.wait(Deadline::in_ns(k_run_grace_ns)));
  if (told != 0) return k_by_signal + told;
  return status.signal != 0 ? k_by_signal + status.signal : status.code;
}

Result<int> run_command(const std::string& path, const std::vector<std::string>& argv,
                        const Signals& signals) {
  SpawnOptions options;
  options.argv = argv;
  options.stdin_fd = STDIN_FILENO;
  options.stdout_fd = STDOUT_FILENO;
  options.stderr_fd = STDERR_FILENO;
  options.env = {"PV_SCOPE=" + path};
  auto command = spawn(options);
  if (command) return wait_for(*command, signals);
  const Error& error = command.error();
  const bool missing = error.code == Code::unavailable;
  if (!missing && error.sys_errno != EACCES && error.sys_errno != ENOEXEC) return fail(error);
  // As a shell has it, so that a script cannot take it for a verdict of ours.
  static_cast<void>(write_all(STDERR_FILENO, fmt::format("pv-vm: {}\n", printable(error.message))));
  return missing ? k_not_found : k_not_executable;
}

}  // namespace

Result<int> run_in_scope(const std::string& path, const std::vector<std::string>& argv,
                         uint64_t teardown_ns) {
  TRY_ASSIGN(const RunDir run, RunDir::open(path));
  const Signals signals;
  TRY_ASSIGN(const Object object, claim(run, path));
  auto guardian = start_daemon(
      object.path("log"), [&](const Fd& runner) { return guard(run, path, runner, teardown_ns); });
  if (!guardian) {
    run.remove(object);
    return fail(guardian.error());
  }
  const Result<int> status = run_command(path, argv, signals);
  const Teardown done = tear_down(run, path, Ends::everything, Deadline::in_ns(teardown_ns));
  kill(guardian->id.pid, SIGKILL);
  waitpid(guardian->id.pid, nullptr, 0);
  run.remove(object);
  if (status && *status == 0 && done.error) return fail(*done.error);
  if (done.error)
    static_cast<void>(write_all(STDERR_FILENO, fmt::format("pv-vm: scope '{}': {}\n", path,
                                                           printable(done.error->message))));
  return status;
}

}  // namespace pv::vm
