// SPDX-License-Identifier: MIT
#include "blk/mirror/borrowed.hpp"

#include <atomic>
#include <csetjmp>
#include <csignal>
#include <cstring>

namespace pv::blk {
namespace {

thread_local sigjmp_buf* volatile t_way_out = nullptr;

// Anywhere else it is what it always was.
void on_bus_error(int number) {
  if (t_way_out != nullptr) siglongjmp(*t_way_out, 1);
  signal(number, SIG_DFL);
  raise(number);
}

// `look` holds nothing that would have to be given back. Saving the signal mask each time would be
// a system call; instead the signal, which is blocked while it is handled, is let in again.
template <class Look>
bool guarded(Look&& look) {
  sigjmp_buf way_out;
  if (sigsetjmp(way_out, 0) != 0) {
    t_way_out = nullptr;
    sigset_t bus;
    sigemptyset(&bus);
    sigaddset(&bus, SIGBUS);
    pthread_sigmask(SIG_UNBLOCK, &bus, nullptr);
    return false;
  }
  t_way_out = &way_out;
  std::atomic_signal_fence(std::memory_order_seq_cst);  // the look stays in between
  look();
  std::atomic_signal_fence(std::memory_order_seq_cst);
  t_way_out = nullptr;
  return true;
}

}  // namespace

// Once: whoever has come in between asks us.
void catch_bus_errors() {
  static const bool caught = [] {
    struct sigaction action {};
    action.sa_handler = on_bus_error;
    return sigaction(SIGBUS, &action, nullptr) == 0;
  }();
  static_cast<void>(caught);
}

Compared compare_borrowed(const char* a, const char* b, size_t size) {
  volatile int order = 0;
  if (!guarded([&] { order = std::memcmp(a, b, size); })) return Compared::gone;
  return order == 0 ? Compared::equal : Compared::different;
}

bool copy_borrowed(char* to, const char* from, size_t size) {
  return guarded([&] { std::memcpy(to, from, size); });
}

}  // namespace pv::blk
