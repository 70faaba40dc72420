// SPDX-License-Identifier: MIT
#include "base/process.hpp"

#include <link.h>
#include <poll.h>
extern "C" {  // glibc 2.36 forgets it in this header
#include <sys/pidfd.h>
}
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/text.hpp"

namespace pv {
namespace {

constexpr size_t k_max_output = 1 << 20;

bool wait_readable(int fd, const Deadline& deadline) {
  pollfd p{fd, POLLIN, 0};
  int ready = 0;
  do ready = poll(&p, 1, deadline.left_ms());
  while (ready < 0 && errno == EINTR);
  return ready > 0;
}

// The parent learns why.
[[noreturn]] void give_up(int report, int err) {
  [[maybe_unused]] auto n = write(report, &err, sizeof err);
  _exit(127);
}

// Runs in the child between fork and exec: only async-signal-safe calls.
[[noreturn]] void exec_child(const SpawnOptions& options, char* const* argv, char** environment,
                             int report, pid_t parent) {
  if (options.own_group) setpgid(0, 0);
  if (options.die_with_parent) {
    prctl(PR_SET_PDEATHSIG, options.death_signal);
    if (getppid() != parent) _exit(127);
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
  // Move everything out of the way of the target numbers first, then into place. No higher than
  // that: descriptors may be few.
  int highest = 2;
  for (const auto& entry : options.fds) highest = std::max(highest, entry.second);
  const int high = highest + 1;
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  const int std_fds[3] = {options.stdin_fd, options.stdout_fd, options.stderr_fd};
  const int safe_report = fcntl(report, F_DUPFD_CLOEXEC, high);
  int staged[3 + 16];
  size_t count = 0;
  for (int fd : std_fds) staged[count++] = fcntl(fd < 0 ? null : fd, F_DUPFD_CLOEXEC, high);
  for (const auto& [ours, theirs] : options.fds)
    staged[count++] = fcntl(ours, F_DUPFD_CLOEXEC, high);
  if (std::any_of(staged, staged + count, [](int fd) { return fd < 0; }))
    give_up(safe_report < 0 ? report : safe_report, EMFILE);
  for (int i = 0; i < 3; ++i) dup2(staged[i], i);
  for (size_t i = 0; i < options.fds.size(); ++i) dup2(staged[3 + i], options.fds[i].second);
  for (int fd = 3; fd <= highest; ++fd) {
    bool wanted = false;
    for (const auto& entry : options.fds) wanted = wanted || entry.second == fd;
    if (!wanted) close(fd);
  }
  if (safe_report > highest + 1)
    close_range(static_cast<unsigned>(highest + 1), static_cast<unsigned>(safe_report - 1), 0);
  close_range(static_cast<unsigned>(safe_report + 1), ~0U, 0);
  environ = environment;
  execvp(argv[0], argv);
  give_up(safe_report, errno);
}

// Our environment with some variables set anew; points into `ours`, which outlives it.
std::vector<char*> environment_with(const std::vector<std::string>& ours) {
  const auto key = [](std::string_view entry) { return entry.substr(0, entry.find('=')); };
  std::vector<char*> all;
  for (char** entry = environ; *entry; ++entry) {
    const auto same = [&](const std::string& set) { return key(set) == key(*entry); };
    if (std::none_of(ours.begin(), ours.end(), same)) all.push_back(*entry);
  }
  for (const std::string& set : ours) all.push_back(const_cast<char*>(set.c_str()));
  all.push_back(nullptr);
  return all;
}

}  // namespace

std::optional<ProcessId> identify(pid_t pid) {
  constexpr size_t k_state = 0, k_start = 19;
  if (pid <= 0) return std::nullopt;
  const std::vector<std::string> fields = stat_fields(fmt::format("/proc/{}", pid));
  if (fields.size() <= k_start || fields[k_state] == "Z" || fields[k_state] == "X")
    return std::nullopt;
  return ProcessId{pid, std::strtoull(fields[k_start].c_str(), nullptr, 10)};
}

std::vector<std::string> stat_fields(const std::string& proc) {
  constexpr size_t k_max_stat = 4096;
  const auto stat = read_file(proc + "/stat", k_max_stat);
  const size_t end = stat ? stat->rfind(')') : std::string::npos;  // the name may hold anything
  if (end == std::string::npos || end + 2 >= stat->size()) return {};
  return split(std::string_view(*stat).substr(end + 2), ' ');
}

bool is_alive(const ProcessId& id) {
  const auto now = identify(id.pid);
  return now && now->start_ticks == id.start_ticks;
}

void forget_clean_pages() {
  const auto each = [](dl_phdr_info* object, size_t, void*) {
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    for (size_t i = 0; i < object->dlpi_phnum; ++i) {
      const auto& segment = object->dlpi_phdr[i];
      // One that is written to has pages that no file has.
      if (segment.p_type != PT_LOAD || (segment.p_flags & PF_W) != 0) continue;
      const uintptr_t from = object->dlpi_addr + segment.p_vaddr;
      const uintptr_t start = from / page * page;
      madvise(reinterpret_cast<void*>(start), from + segment.p_memsz - start, MADV_DONTNEED);
    }
    return 0;
  };
  dl_iterate_phdr(each, nullptr);
}

Result<bool> terminate(const ProcessId& id, uint64_t grace_ns) {
  Fd pidfd(pidfd_open(id.pid, 0));
  if (!pidfd || !is_alive(id)) return false;
  pidfd_send_signal(pidfd.get(), SIGTERM, nullptr, 0);
  if (wait_readable(pidfd.get(), Deadline::in_ns(grace_ns))) return false;
  pidfd_send_signal(pidfd.get(), SIGKILL, nullptr, 0);
  constexpr uint64_t k_kill_ms = 10'000;
  if (wait_readable(pidfd.get(), Deadline::in_ms(k_kill_ms))) return true;
  return fail(Code::timeout, fmt::format("process {} does not end after SIGKILL", id.pid));
}

std::string ExitStatus::describe() const {
  if (signal == 0) return fmt::format("exit status {}", code);
  return fmt::format("killed by signal {} ({})", signal, strsignal(signal));
}

Child::Child(Child&& other) noexcept
    : pid_(std::exchange(other.pid_, 0)), pidfd_(std::move(other.pidfd_)) {}

Child& Child::operator=(Child&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(pidfd_, other.pidfd_);
  return *this;
}

Child::~Child() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void Child::kill(int signal) {
  if (pid_ > 0) ::kill(pid_, signal);
}

pid_t Child::release() {
  pidfd_.reset();
  return std::exchange(pid_, 0);
}

Result<ExitStatus> Child::wait(const Deadline& deadline) {
  if (pid_ <= 0) return fail(Code::bug, "wait for a child that does not exist");
  if (!wait_readable(pidfd_.get(), deadline))
    return fail(Code::timeout, fmt::format("process {} has not ended", pid_));
  int status = 0;
  if (waitpid(pid_, &status, 0) < 0) return fail_errno("waitpid", errno);
  pid_ = 0;
  pidfd_.reset();
  ExitStatus result;
  if (WIFEXITED(status)) result.code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
  return result;
}

Result<Child> spawn(const SpawnOptions& options) {
  if (options.fds.size() > 16) return fail(Code::bug, "spawn: too many descriptors");
  std::vector<char*> argv;
  for (const std::string& arg : options.argv) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  std::vector<char*> environment = environment_with(options.env);
  int report[2];
  if (pipe2(report, O_CLOEXEC) < 0) return fail_errno("pipe", errno);
  Fd report_in(report[0]), report_out(report[1]);
  const pid_t parent = getpid();
  Child child;
  child.pid_ = fork();
  if (child.pid_ < 0) {
    child.pid_ = 0;
    return fail_errno("fork", errno);
  }
  if (child.pid_ == 0)
    exec_child(options, argv.data(), environment.data(), report_out.get(), parent);
  report_out.reset();
  child.pidfd_.reset(pidfd_open(child.pid_, 0));
  if (!child.pidfd_) return fail_errno("pidfd_open", errno);
  int err = 0;
  if (read(report_in.get(), &err, sizeof err) == static_cast<ssize_t>(sizeof err)) {
    const std::string what = fmt::format("cannot run {}", options.argv[0]);
    if (err == ENOENT) return fail(Code::unavailable, what + ": not found; is it installed?");
    return fail_errno(what, err);
  }
  return child;
}

Result<Output> run_program(const std::vector<std::string>& argv, const Deadline& deadline) {
  int out[2], err[2];
  if (pipe2(out, O_CLOEXEC) < 0) return fail_errno("pipe", errno);
  Fd out_in(out[0]), out_end(out[1]);
  if (pipe2(err, O_CLOEXEC) < 0) return fail_errno("pipe", errno);
  Fd err_in(err[0]), err_end(err[1]);
  SpawnOptions options;
  options.argv = argv;
  options.stdout_fd = out_end.get();
  options.stderr_fd = err_end.get();
  TRY_ASSIGN(Child child, spawn(options));
  out_end.reset();
  err_end.reset();
  Output output;
  pollfd polls[2] = {{out_in.get(), POLLIN, 0}, {err_in.get(), POLLIN, 0}};
  std::string* sinks[2] = {&output.out, &output.err};
  while (polls[0].fd >= 0 || polls[1].fd >= 0) {
    const int ready = poll(polls, 2, deadline.left_ms());
    if (ready == 0) return fail(Code::timeout, fmt::format("{} has not ended in time", argv[0]));
    if (ready < 0) continue;  // EINTR
    for (int i = 0; i < 2; ++i) {
      if (polls[i].revents == 0) continue;
      char buffer[16384];
      const ssize_t n = read(polls[i].fd, buffer, sizeof buffer);
      if (n <= 0)
        polls[i].fd = -1;
      else if (sinks[i]->size() < k_max_output)
        sinks[i]->append(buffer, static_cast<size_t>(n));
    }
  }
  TRY_ASSIGN(output.status, child.wait(deadline));
  return output;
}

Result<Daemon> start_daemon(const std::string& log_path, const std::function<int(Fd)>& body,
                            int keep) {
  int ready[2];
  if (pipe2(ready, O_CLOEXEC) < 0) return fail_errno("pipe", errno);
  Fd ready_in(ready[0]), ready_out(ready[1]);
  Fd log(open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!log) return fail_errno("cannot open " + log_path, errno);
  fflush(nullptr);
  const pid_t pid = fork();
  if (pid < 0) return fail_errno("fork", errno);
  if (pid == 0) {
    setsid();
    Fd null(open("/dev/null", O_RDWR | O_CLOEXEC));
    dup2(null.get(), 0);
    dup2(null.get(), 1);
    dup2(log.get(), 2);
    constexpr int k_ready = 3;
    const int staged = fcntl(ready_out.get(), F_DUPFD_CLOEXEC, 10);
    const int staged_keep = keep < 0 ? -1 : fcntl(keep, F_DUPFD_CLOEXEC, 10);
    dup3(staged, k_ready, O_CLOEXEC);
    if (keep >= 0) dup3(staged_keep, k_kept_fd, O_CLOEXEC);
    close_range(keep < 0 ? k_kept_fd : k_kept_fd + 1, ~0U, 0);
    for (Fd* fd : {&null, &log, &ready_in, &ready_out}) fd->release();  // closed above
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    _exit(body(Fd(k_ready)));
  }
  ready_out.reset();
  Daemon daemon;
  daemon.id = identify(pid).value_or(ProcessId{pid, 0});
  daemon.ready = std::move(ready_in);
  return daemon;
}

Result<std::string> read_ready(const Daemon& daemon, const Deadline& deadline) {
  std::string message;
  char buffer[4096];
  while (true) {
    if (!wait_readable(daemon.ready.get(), deadline))
      return fail(Code::timeout, "the new process has not reported in time");
    const ssize_t n = read(daemon.ready.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return message;
    message.append(buffer, static_cast<size_t>(n));
  }
}

}  // namespace pv
