// SPDX-License-Identifier: MIT
#include "front/vhost/bus_guard.hpp"

#include <atomic>
#include <csignal>
#include <mutex>
#include <sys/mman.h>
#include <unistd.h>

namespace pv::vhost {
namespace {

// Fixed, since a signal handler walks through it.
struct Guarded {
  std::atomic<char*> begin{nullptr};
  std::atomic<size_t> size{0};
};
constexpr size_t k_max_guarded = 1024;
Guarded g_guarded[k_max_guarded];
struct sigaction g_before;

bool put_zeroes(char* at) {
  for (Guarded& one : g_guarded) {
    char* begin = one.begin.load();
    if (begin == nullptr || at < begin || at >= begin + one.size.load()) continue;
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    char* start = begin + (static_cast<size_t>(at - begin) & ~(page - 1));
    return mmap(start, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                0) != MAP_FAILED;
  }
  return false;
}

void on_bus_error(int number, siginfo_t* info, void* context) {
  if (put_zeroes(static_cast<char*>(info->si_addr))) return;
  if ((g_before.sa_flags & SA_SIGINFO) != 0) return g_before.sa_sigaction(number, info, context);
  if (g_before.sa_handler != SIG_DFL && g_before.sa_handler != SIG_IGN)
    return g_before.sa_handler(number);
  signal(number, SIG_DFL);
  raise(number);
}

void install() {
  struct sigaction now {};
  sigaction(SIGBUS, nullptr, &now);
  if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == on_bus_error) return;
  g_before = now;
  struct sigaction ours {};
  ours.sa_sigaction = on_bus_error;
  ours.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &ours, nullptr);
}

}  // namespace

int guard_against_bus_errors(char* mapping, size_t size) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  install();
  for (size_t i = 0; i < k_max_guarded; ++i) {
    Guarded& one = g_guarded[i];
    if (one.begin.load() != nullptr) continue;
    one.size = size;
    one.begin = mapping;
    return static_cast<int>(i);
  }
  return -1;
}

void end_guard(int guard) {
  if (guard >= 0) g_guarded[guard].begin = nullptr;
}

}  // namespace pv::vhost
