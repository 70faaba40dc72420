// SPDX-License-Identifier: MIT
#include "sweep_program.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <sys/wait.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"

namespace pv::faultcmd {
namespace {

constexpr size_t k_tail_bytes = 4096;
constexpr uint64_t k_grace_ns = 2 * k_ns_per_s;  // between asking and killing
constexpr uint64_t k_gone_ns = 10 * k_ns_per_s;  // for a killed process to be gone
constexpr uint64_t k_killed_ns = k_ns_per_s;     // ... one that may be a zombie nobody reaps
constexpr uint64_t k_look_ns = 2 * k_ns_per_ms;  // nothing tells when a group is empty
constexpr size_t k_max_environ = 4 << 20;

// Also those that are stopped: they go on and end.
void ask_group(pid_t group) {
  ::kill(-group, SIGTERM);
  ::kill(-group, SIGCONT);
}

}  // namespace

void Tail::add(std::string_view bytes) {
  bytes_.append(bytes);
  if (bytes_.size() <= 4 * k_tail_bytes) return;
  bytes_.erase(0, bytes_.size() - k_tail_bytes);
  cut_ = true;
}

std::string Tail::text() const {
  size_t start = bytes_.size() > k_tail_bytes ? bytes_.size() - k_tail_bytes : 0;
  // Not from within a character of UTF-8, whose later bytes begin with the bits 10.
  while ((cut_ || start > 0) && start < bytes_.size() && (bytes_[start] & 0xc0) == 0x80) ++start;
  return bytes_.substr(start);
}

json Ended::to_json() const {
  json object = json::object();
  if (status.signal == 0) {
    object["exit_status"] = status.code;
  } else {
    const char* name = sigabbrev_np(status.signal);
    object["signal"] = name ? fmt::format("SIG{}", name) : std::to_string(status.signal);
  }
  object["timed_out"] = timed_out;
  object["duration_ms"] = static_cast<double>(duration_ns / 1000) / 1e3;
  set_text(object, "stdout", out);
  set_text(object, "stderr", err);
  return object;
}

Result<std::unique_ptr<Program>> Program::start(Loop& loop, std::vector<std::string> argv,
                                                std::vector<std::string> env, uint64_t timeout_ns,
                                                Done done) {
  std::unique_ptr<Program> program(new Program(loop, std::move(done)));
  TRY(program->launch(std::move(argv), std::move(env)));
  program->timer_ = loop.after(timeout_ns, [self = program.get()] { self->on_timeout(); });
  return program;
}

Result<> Program::launch(std::vector<std::string> argv, std::vector<std::string> env) {
  TRY_ASSIGN(const Fd out, open_pipe(out_));
  TRY_ASSIGN(const Fd err, open_pipe(err_));
  SpawnOptions options;
  options.argv = std::move(argv);
  options.env = std::move(env);
  options.stdout_fd = out.get();
  options.stderr_fd = err.get();
  options.own_group = true;
  started_ns_ = system_clock().now_ns();
  TRY_ASSIGN(child_, spawn(options));
  group_ = child_.pid();
  return loop_.watch(child_.pidfd(), EPOLLIN, [this](uint32_t) { on_exit(); });
}

Result<Fd> Program::open_pipe(Pipe& pipe) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) return fail_errno("pipe", errno);
  pipe.in.reset(ends[0]);
  Fd theirs(ends[1]);
  fcntl(pipe.in.get(), F_SETFL, O_NONBLOCK);  // ours alone: the ends have flags of their own
  TRY(loop_.watch(pipe.in.get(), EPOLLIN, [this, &pipe](uint32_t) { receive(pipe); }));
  return theirs;
}

// A bounded part of what is there: one that prints without end must not hold up the others.
void Program::receive(Pipe& pipe) {
  char buffer[65536];
  for (int round = 0; pipe.in && round < 32; ++round) {
    const ssize_t n = read(pipe.in.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return close_pipe(pipe);
    pipe.tail.add({buffer, static_cast<size_t>(n)});
  }
}

void Program::close_pipe(Pipe& pipe) {
  if (!pipe.in) return;
  loop_.unwatch(pipe.in.get());
  pipe.in.reset();
}

bool Program::group_remains() const {
  if (child_) return true;
  while (waitpid(-group_, nullptr, WNOHANG) > 0) {
  }
  return ::kill(-group_, 0) == 0;
}

void Program::ask_to_end() {
  if (group_ == 0 || kill_at_ns_ != 0) return;
  ask_group(group_);
  kill_at_ns_ = system_clock().now_ns() + k_grace_ns;
}

void Program::on_timeout() {
  ended_.timed_out = true;
  ask_to_end();
  timer_ = loop_.after(k_grace_ns, [this] {
    ::kill(-group_, SIGKILL);
    timer_ = loop_.after(k_gone_ns, [this] {
      const Done done = std::move(done_);
      done(fail(Code::timeout, fmt::format("process {} does not end after SIGKILL", group_)));
    });
  });
}

void Program::on_exit() {
  ended_.duration_ns = system_clock().now_ns() - started_ns_;
  loop_.unwatch(child_.pidfd());
  loop_.cancel(timer_);
  auto status = child_.wait(Deadline::in_ms(0));
  if (status) ended_.status = *status;
  settle();
}

// The program itself has ended; what it left in its group is asked to end, and then made to.
void Program::settle() {
  if (!group_remains()) return finish();
  ask_to_end();
  const uint64_t now = system_clock().now_ns();
  if (now >= kill_at_ns_) ::kill(-group_, SIGKILL);
  if (now >= kill_at_ns_ + k_killed_ns) return finish();
  timer_ = loop_.after(k_look_ns, [this] { settle(); });
}

void Program::finish() {
  group_ = 0;
  for (Pipe* pipe : {&out_, &err_}) {
    receive(*pipe);
    close_pipe(*pipe);
  }
  ended_.out = out_.tail.text();
  ended_.err = err_.tail.text();
  const Done done = std::move(done_);
  done(std::move(ended_));  // the last word: we may be gone after it
}

void Program::end_now() {
  if (child_) loop_.unwatch(child_.pidfd());
  loop_.cancel(timer_);
  ask_to_end();
  wait_for_group(kill_at_ns_);
  ::kill(-group_, SIGKILL);
  wait_for_group(kill_at_ns_ + k_killed_ns);
}

void Program::wait_for_group(uint64_t until_ns) {
  while (group_remains() && system_clock().now_ns() < until_ns) {
    if (child_)
      static_cast<void>(child_.wait(Deadline::in_ns(k_look_ns)));
    else
      sleep_ns(k_look_ns);
  }
}

Program::~Program() {
  if (group_ != 0) end_now();
  close_pipe(out_);
  close_pipe(err_);
}

void end_strays(const std::string& entry) {
  constexpr int k_rounds = 8;  // their own children come to us only when they are dead
  for (int round = 0; round < k_rounds; ++round) {
    const auto children =
        read_file(fmt::format("/proc/self/task/{}/children", getpid()), k_max_environ);
    bool found = false;
    for (const std::string& word : split(children.value_or(""), ' ')) {
      const auto pid = static_cast<pid_t>(std::strtol(word.c_str(), nullptr, 10));
      const auto environment = read_file(fmt::format("/proc/{}/environ", pid), k_max_environ);
      if (pid <= 0 || !environment) continue;
      const std::vector<std::string> entries = split(*environment, '\0');
      if (std::find(entries.begin(), entries.end(), entry) == entries.end()) continue;
      if (const auto stray = identify(pid)) found = terminate(*stray, 0).has_value() || found;
      waitpid(pid, nullptr, WNOHANG);
    }
    if (!found) return;
  }
}

}  // namespace pv::faultcmd
