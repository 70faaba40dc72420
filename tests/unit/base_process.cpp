// SPDX-License-Identifier: MIT
// If this fails, a process is left behind, the wrong one is killed, or a child inherits what it
// should not have.
#include <algorithm>
#include <csignal>
#include <fcntl.h>
#include <sys/wait.h>

#include <fmt/format.h>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "base/file.hpp"
#include "base/process.hpp"

using namespace pv;
using namespace pv::test;

namespace {

Deadline in_time() {
  return Deadline::in_ms(20'000);
}

Result<Child> sleeper() {
  SpawnOptions options;
  options.argv = {"sleep", "1000"};
  return spawn(options);
}

}  // namespace

TEST_CASE("a program's output and exit status come back", "[base]") {
  const auto result = run_program({"sh", "-c", "echo out; echo err >&2; exit 7"}, in_time());
  REQUIRE(result);
  CHECK(result->out == "out\n");
  CHECK(result->err == "err\n");
  CHECK(result->status.code == 7);
  CHECK(result->status.describe() == "exit status 7");
  const auto killed = run_program({"sh", "-c", "kill -9 $$"}, in_time());
  REQUIRE(killed);
  CHECK(killed->status.signal == SIGKILL);
}

TEST_CASE("arguments reach the program as they are, no shell reads them", "[base]") {
  const std::string odd = "a b\"'$(id)\n*;|";
  const auto result = run_program({"printf", "%s", odd}, in_time());
  REQUIRE(result);
  CHECK(result->out == odd);
}

TEST_CASE("a program that is not there is unavailable, one that takes too long is a timeout",
          "[base]") {
  const auto missing = run_program({"pv-no-such-program"}, in_time());
  REQUIRE_FALSE(missing);
  CHECK(missing.error().code == Code::unavailable);
  const auto slow = run_program({"sleep", "1000"}, Deadline::in_ms(20));
  REQUIRE_FALSE(slow);
  CHECK(slow.error().code == Code::timeout);
}

TEST_CASE("a child gets the descriptors that were named, in their places, and no other", "[base]") {
  TempDir dir;
  Fd secret(open("/dev/null", O_RDONLY));  // not close-on-exec: must be closed all the same
  Fd file(open(dir.path("f").c_str(), O_RDWR | O_CREAT, 0600));
  int out[2];
  REQUIRE(pipe2(out, O_CLOEXEC) == 0);
  Fd in(out[0]), end(out[1]);
  for (const int number : {3, 5, file.get(), secret.get()}) {
    SpawnOptions options;
    options.argv = {
        "sh", "-c",
        fmt::format("ls /proc/self/fd | tr '\\n' ' '; readlink /proc/self/fd/{}", number)};
    options.stdout_fd = end.get();
    options.fds = {{file.get(), number}};
    auto child = spawn(options);
    REQUIRE(child);
    const auto status = child->wait(in_time());
    REQUIRE(status);
    char text[256];
    const ssize_t n = read(in.get(), text, sizeof text);
    const std::string said(text, static_cast<size_t>(std::max<ssize_t>(n, 0)));
    INFO(said);
    CHECK(said.find(dir.path("f")) != std::string::npos);
    // 0 1 2, the one that was asked for, and the one through which ls reads the folder.
    CHECK(std::count(said.begin(), said.end(), ' ') == 5);
  }
}

TEST_CASE("a child's variables are set beside our own, in place of those of that name", "[base]") {
  setenv("PV_ENV_OURS", "ours", 1);
  setenv("PV_ENV_BOTH", "ours", 1);
  int out[2];
  REQUIRE(pipe2(out, O_CLOEXEC) == 0);
  Fd in(out[0]), end(out[1]);
  SpawnOptions options;
  options.argv = {"sh", "-c", "env | grep ^PV_ENV_ | sort; echo \"$PATH\""};
  options.stdout_fd = end.get();
  options.env = {"PV_ENV_BOTH=theirs", "PV_ENV_THEIRS=a=b"};
  auto child = spawn(options);
  REQUIRE(child);
  end.reset();
  CHECK(
      read_all(in.get(), 1 << 16, "pipe", in_time()).value_or("") ==
      fmt::format("PV_ENV_BOTH=theirs\nPV_ENV_OURS=ours\nPV_ENV_THEIRS=a=b\n{}\n", getenv("PATH")));
  CHECK(child->wait(in_time())->code == 0);
  CHECK(std::string(getenv("PV_ENV_BOTH")) == "ours");
  unsetenv("PV_ENV_OURS");
  unsetenv("PV_ENV_BOTH");
}

TEST_CASE("a child leads a group of its own when asked to, and is in ours otherwise", "[base]") {
  for (const bool own : {false, true}) {
    SpawnOptions options;
    options.argv = {"sleep", "1000"};
    options.own_group = own;
    auto child = spawn(options);
    REQUIRE(child);
    CHECK(getpgid(child->pid()) == (own ? child->pid() : getpgrp()));
  }
}

TEST_CASE("a child that is let go of is killed, a released one lives on", "[base]") {
  pid_t pid = 0;
  {
    auto child = sleeper();
    REQUIRE(child);
    pid = child->pid();
    CHECK(identify(pid));
  }
  CHECK_FALSE(identify(pid));
  auto child = sleeper();
  REQUIRE(child);
  pid = child->release();
  const auto id = identify(pid);
  REQUIRE(id);
  CHECK(is_alive(*id));
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  CHECK_FALSE(is_alive(*id));
}

TEST_CASE("terminate asks first, then kills, and says which", "[base]") {
  SpawnOptions options;
  int ready[2];
  REQUIRE(pipe2(ready, O_CLOEXEC) == 0);
  Fd in(ready[0]), end(ready[1]);
  options.stdout_fd = end.get();
  options.argv = {"sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"};
  auto stubborn = spawn(options);
  REQUIRE(stubborn);
  char up[3];
  REQUIRE(read(in.get(), up, 3) == 3);
  const auto forced = terminate(*identify(stubborn->pid()), 20 * k_ns_per_ms);
  REQUIRE(forced);
  CHECK(*forced);
  auto polite = sleeper();
  REQUIRE(polite);
  const auto asked = terminate(*identify(polite->pid()), 60 * k_ns_per_s);
  REQUIRE(asked);
  CHECK_FALSE(*asked);
  CHECK(polite->wait(in_time())->signal == SIGTERM);
}

TEST_CASE("a process is known by its start time: another one with its pid is left alone",
          "[base]") {
  auto child = sleeper();
  REQUIRE(child);
  ProcessId other = *identify(child->pid());
  other.start_ticks -= 1;
  CHECK_FALSE(is_alive(other));
  const auto result = terminate(other, 0);
  REQUIRE(result);
  CHECK_FALSE(*result);
  CHECK(identify(child->pid()));
  CHECK_FALSE(identify(0));
  CHECK_FALSE(identify(-1));
  CHECK_FALSE(is_alive({}));
}

TEST_CASE("a zombie is not alive", "[base]") {
  const pid_t pid = fork();
  if (pid == 0) _exit(0);
  siginfo_t info{};
  waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT);
  CHECK_FALSE(identify(pid));
  waitpid(pid, nullptr, 0);
}

TEST_CASE("a daemon reports once, outlives its starter's descriptors, and ends with its code",
          "[base]") {
  TempDir dir;
  Fd null(open("/dev/null", O_RDONLY));
  Fd inherited(fcntl(null.get(), F_DUPFD, 50));  // not a number that a daemon uses itself
  const auto daemon = start_daemon(dir.path("log"), [&](Fd ready) {
    const bool closed = fcntl(inherited.get(), F_GETFD) < 0;
    static_cast<void>(write_all(ready.get(), closed ? "closed" : "open"));
    ready.reset();
    fmt::print(stderr, "a word for the log\n");
    fflush(stderr);
    return 5;
  });
  REQUIRE(daemon);
  CHECK(read_ready(*daemon, in_time()).value_or("") == "closed");
  int status = 0;
  REQUIRE(waitpid(daemon->id.pid, &status, 0) == daemon->id.pid);
  CHECK(WEXITSTATUS(status) == 5);
  CHECK(tail_of_file(dir.path("log"), 100) == "a word for the log\n");
}

TEST_CASE("a daemon that dies at once is an empty report, not a hang", "[base]") {
  TempDir dir;
  const auto daemon = start_daemon(dir.path("log"), [](Fd) -> int { _exit(1); });
  REQUIRE(daemon);
  CHECK(read_ready(*daemon, in_time()).value_or("x").empty());
  waitpid(daemon->id.pid, nullptr, 0);
}
