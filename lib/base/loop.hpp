// SPDX-License-Identifier: MIT
// The event loop: epoll, a timerfd, signals as events, and work posted for "right after this".
// One thread owns a Loop and everything registered with it.
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <sys/epoll.h>
#include <unordered_map>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "base/timers.hpp"

namespace pv {

class Loop final : public Timers {
 public:
  using Handler = std::function<void(uint32_t events)>;

  static Result<std::unique_ptr<Loop>> create();

  // Calls `handler` with EPOLL* bits whenever `fd` is ready. The fd stays the caller's; unwatch()
  // it before closing. A handler may watch, change and unwatch anything, itself included.
  Result<> watch(int fd, uint32_t events, Handler handler);
  void change(int fd, uint32_t events);
  void unwatch(int fd);

  // Blocks `signals` in this thread and calls the handler with the signal number instead.
  Result<> on_signals(std::initializer_list<int> signals, std::function<void(int)> handler);

  TimerId after(uint64_t ns, std::function<void()> callback) override;
  void cancel(TimerId id) override { timers_.cancel(id); }

  // Runs `callback` on the loop before it next waits.
  void post(std::function<void()> callback) { posted_.push_back(std::move(callback)); }

  // Runs until stop(); returns early only when epoll itself fails.
  Result<> run();
  // One round: wait at most `timeout_ms` (-1: for ever), then handle everything ready.
  Result<> run_once(int timeout_ms);
  void stop() { stopping_ = true; }

  // The next wait may look for events for a while before it sleeps. Going to sleep and being woken
  // costs several times the wait itself when requests come one by one; said again for every wait.
  void spin_once() { spin_ = true; }

 private:
  struct Watch {
    uint64_t generation;
    std::shared_ptr<Handler> handler;
  };

  Loop(Fd epoll, Fd timer) : epoll_(std::move(epoll)), timer_(std::move(timer)) {}
  void arm_timer();
  int wait(struct epoll_event* events, int room, int timeout_ms);
  void run_posted();

  Fd epoll_;
  Fd timer_;
  Fd signals_;
  std::unordered_map<int, Watch> watches_;
  std::vector<std::function<void()>> posted_;
  TimerQueue timers_;
  uint64_t armed_deadline_ = UINT64_MAX;
  uint32_t generation_ = 0;
  bool spin_ = false;
  uint64_t gap_ns_ = UINT32_MAX;  // moving average of the waits that were to spin
  bool stopping_ = false;
};

}  // namespace pv
