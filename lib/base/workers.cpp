// SPDX-License-Identifier: MIT
#include "base/workers.hpp"

#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"

namespace pv {
namespace {

constexpr size_t k_max_report = 64 << 20;

// The worker's whole life.
[[noreturn]] void work(const Workers::Body& body, int report, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const Result<json> result = body();
  const json message =
      result ? json({{"result", *result}}) : json({{"error", error_to_json(result.error())}});
  _exit(write_all(report, to_line(message)) ? 0 : 1);
}

Result<json> result_of(const std::string& text) {
  const auto message = parse_json(text);
  if (!message) return fail(Code::bug, "the process that does the work has ended");
  if (const json* error = find(*message, "error")) return fail(error_from_json(*error));
  return (*message)["result"];
}

}  // namespace

Result<> Workers::start(size_t job, const Body& body) {
  int pipe[2];
  if (pipe2(pipe, O_CLOEXEC) < 0) return fail_errno("pipe", errno);
  Fd in(pipe[0]), out(pipe[1]);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return fail_errno("fork", errno);
  if (pid == 0) work(body, out.get(), parent);
  workers_.push_back({job, pid, std::move(in), ""});
  return {};
}

bool Workers::wait(const Done& done, int other) {
  std::vector<pollfd> waits;
  for (const Worker& worker : workers_) waits.push_back({worker.report.get(), POLLIN, 0});
  waits.push_back({other, POLLIN, 0});
  if (poll(waits.data(), waits.size(), -1) <= 0) return true;
  for (size_t i = workers_.size(); i-- > 0;)
    if (waits[i].revents != 0) receive(i, done);
  return waits.back().revents == 0;
}

void Workers::receive(size_t index, const Done& done) {
  Worker& worker = workers_[index];
  char buffer[65536];
  const ssize_t n = read(worker.report.get(), buffer, sizeof buffer);
  if (n < 0 && errno == EINTR) return;
  if (n > 0 && worker.text.size() < k_max_report) {
    worker.text.append(buffer, static_cast<size_t>(n));
    return;
  }
  waitpid(worker.pid, nullptr, 0);
  const Worker ended = std::move(worker);
  workers_.erase(workers_.begin() + static_cast<std::ptrdiff_t>(index));
  done(ended.job, result_of(ended.text));
}

std::vector<size_t> Workers::kill() {
  std::vector<size_t> jobs;
  for (const Worker& worker : workers_) {
    ::kill(worker.pid, SIGKILL);
    waitpid(worker.pid, nullptr, 0);
    jobs.push_back(worker.job);
  }
  workers_.clear();
  return jobs;
}

}  // namespace pv
