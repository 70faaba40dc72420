// SPDX-License-Identifier: MIT
#include "base/loop.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <initializer_list>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>

namespace pv {
namespace {

// An epoll event carries the fd and the generation of its watch, so that an event for a descriptor
// that was closed and reused within the same round is dropped.
uint64_t pack(int fd, uint64_t generation) {
  return generation << 32 | static_cast<uint32_t>(fd);
}

}  // namespace

Result<std::unique_ptr<Loop>> Loop::create() {
  Fd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return fail_errno("epoll_create1", errno);
  Fd timer(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!timer) return fail_errno("timerfd_create", errno);
  prctl(PR_SET_TIMERSLACK, 1UL);  // delays are promised to the microsecond
  std::unique_ptr<Loop> loop(new Loop(std::move(epoll), std::move(timer)));
  Loop* self = loop.get();
  TRY(loop->watch(self->timer_.get(), EPOLLIN, [self](uint32_t) {
    uint64_t expirations;
    [[maybe_unused]] auto n = read(self->timer_.get(), &expirations, sizeof expirations);
    self->armed_deadline_ = UINT64_MAX;
  }));
  return loop;
}

Result<> Loop::watch(int fd, uint32_t events, Handler handler) {
  ++generation_;
  epoll_event event{};
  event.events = events;
  event.data.u64 = pack(fd, generation_);
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0) return fail_errno("epoll_ctl", errno);
  watches_[fd] = {generation_, std::make_shared<Handler>(std::move(handler))};
  return {};
}

void Loop::change(int fd, uint32_t events) {
  const auto found = watches_.find(fd);
  if (found == watches_.end()) return;
  epoll_event event{};
  event.events = events;
  event.data.u64 = pack(fd, found->second.generation);
  epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

void Loop::unwatch(int fd) {
  if (watches_.erase(fd) != 0) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

Result<> Loop::on_signals(std::initializer_list<int> signals, std::function<void(int)> handler) {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : signals) sigaddset(&set, signal);
  if (int err = pthread_sigmask(SIG_BLOCK, &set, nullptr)) return fail_errno("sigmask", err);
  signals_.reset(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) return fail_errno("signalfd", errno);
  return watch(signals_.get(), EPOLLIN, [this, handler = std::move(handler)](uint32_t) {
    signalfd_siginfo info;
    while (read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info))
      handler(static_cast<int>(info.ssi_signo));
  });
}

TimerId Loop::after(uint64_t ns, std::function<void()> callback) {
  const uint64_t now = system_clock().now_ns();
  return timers_.add(now > UINT64_MAX - ns ? UINT64_MAX : now + ns, std::move(callback));
}

void Loop::arm_timer() {
  const uint64_t next = timers_.next_deadline();
  if (next == armed_deadline_) return;
  armed_deadline_ = next;
  itimerspec spec{};  // all zero disarms
  if (next != UINT64_MAX) {
    spec.it_value.tv_sec = static_cast<time_t>(next / k_ns_per_s);
    spec.it_value.tv_nsec = static_cast<long>(next % k_ns_per_s);
  }
  timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &spec, nullptr);
}

void Loop::run_posted() {
  while (!posted_.empty()) {
    std::vector<std::function<void()>> batch;
    batch.swap(posted_);
    for (auto& callback : batch) callback();
  }
}

// epoll_wait(2), after spinning where the waits of late were short enough for that to pay. The gap
// is measured whether or not we sleep, so this finds in and out of spinning by itself.
int Loop::wait(epoll_event* events, int room, int timeout_ms) {
  if (!std::exchange(spin_, false) || timeout_ms == 0)
    return epoll_wait(epoll_.get(), events, room, timeout_ms);
  constexpr uint64_t k_worth_it_ns = 150'000;  // being woken alone takes 20 to 50 us, twice a turn
  constexpr uint64_t k_max_spin_ns = 100'000;
  constexpr uint64_t k_long_ns = 10 * k_ns_per_ms;  // a pause must not be remembered for long
  const uint64_t start = system_clock().now_ns();
  int n = 0;
  while (gap_ns_ < k_worth_it_ns && n == 0 && system_clock().now_ns() - start < k_max_spin_ns) {
    sched_yield();  // whoever else wants this processor goes first
    n = epoll_wait(epoll_.get(), events, room, 0);
  }
  if (n == 0) n = epoll_wait(epoll_.get(), events, room, timeout_ms);
  gap_ns_ = (gap_ns_ * 7 + std::min(system_clock().now_ns() - start, k_long_ns)) / 8;
  return n;
}

Result<> Loop::run_once(int timeout_ms) {
  run_posted();
  if (stopping_) return {};
  arm_timer();
  constexpr int k_batch = 64;
  epoll_event events[k_batch];
  const int n = wait(events, k_batch, timeout_ms);
  if (n < 0 && errno != EINTR) return fail_errno("epoll_wait", errno);
  for (int i = 0; i < n; ++i) {
    const auto fd = static_cast<int>(static_cast<uint32_t>(events[i].data.u64));
    const auto found = watches_.find(fd);
    if (found == watches_.end() || found->second.generation != events[i].data.u64 >> 32) continue;
    const std::shared_ptr<Handler> handler = found->second.handler;  // outlives an unwatch
    (*handler)(events[i].events);
  }
  if (!timers_.empty()) timers_.run_due(system_clock().now_ns());
  run_posted();
  return {};
}

Result<> Loop::run() {
  stopping_ = false;
  while (!stopping_) TRY(run_once(-1));
  return {};
}

}  // namespace pv
