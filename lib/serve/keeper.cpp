// SPDX-License-Identifier: MIT
#include "serve/keeper.hpp"

#include <cerrno>
#include <csignal>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/clock.hpp"

namespace pv::serve {
namespace {

// A server that cannot live is not started for ever.
constexpr uint64_t k_short_life_ns = 50 * k_ns_per_ms;
constexpr int k_max_short_lives = 10;
constexpr int k_bug = 70;  // the exit status of a failed assertion

volatile pid_t g_server = 0;

void pass_on(int number) {
  if (g_server > 0) kill(g_server, number);
}

pid_t start(const std::function<int(bool)>& serve, bool again) {
  const pid_t pid = fork();
  if (pid != 0) return pid;
  // It does not end with its keeper: a guest may be on it.
  for (const int number : {SIGTERM, SIGINT}) signal(number, SIG_DFL);
  _exit(serve(again));
}

bool has_died(int status) {
  return WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) == k_bug);
}

bool is_wanted(const std::string& dir) {
  return access(dir.c_str(), F_OK) == 0 && access((dir + "/" + k_closing_file).c_str(), F_OK) != 0;
}

int exit_status(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

int keep_serving(const std::string& dir, Fd& ready, const std::function<int(bool)>& serve) {
  prctl(PR_SET_NAME, "pv-disk-keeper");
  for (const int number : {SIGTERM, SIGINT}) signal(number, pass_on);
  for (int short_lives = 0, lives = 0;; ++lives) {
    const uint64_t began_ns = system_clock().now_ns();
    g_server = start(serve, lives != 0);
    if (g_server < 0) {
      fmt::print(stderr, "the disk's server cannot be started: {}\n", strerrordesc_np(errno));
      return 1;
    }
    ready.reset();
    int status = 0;
    while (waitpid(g_server, &status, 0) < 0 && errno == EINTR) {
    }
    g_server = 0;
    if (!has_died(status) || !is_wanted(dir)) return exit_status(status);
    const bool was_short = system_clock().now_ns() - began_ns < k_short_life_ns;
    short_lives = was_short ? short_lives + 1 : 0;
    if (short_lives == k_max_short_lives) {
      fmt::print(stderr, "the disk's server dies as soon as it is started: given up\n");
      return exit_status(status);
    }
    fmt::print(stderr, "the disk's server has died (status {}); it is started again\n",
               exit_status(status));
  }
}

}  // namespace pv::serve
