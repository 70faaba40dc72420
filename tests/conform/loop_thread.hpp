// SPDX-License-Identifier: MIT
// A thread that runs a loop, for a test that has to do something on it now and then: on() hands it
// work and waits for its end. The loop is the thread's from start() to stop().
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <sys/eventfd.h>
#include <thread>
#include <unistd.h>

#include "../catch.hpp"
#include "base/fd.hpp"
#include "base/loop.hpp"

namespace pv::test {

class LoopThread {
 public:
  explicit LoopThread(Loop& loop) : loop_(loop), bell_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    REQUIRE(loop_.watch(bell_.get(), EPOLLIN, [this](uint32_t) { answer(); }));
  }
  ~LoopThread() {
    if (thread_.joinable()) stop();
    loop_.unwatch(bell_.get());
  }
  LoopThread(const LoopThread&) = delete;
  LoopThread& operator=(const LoopThread&) = delete;

  void start() {
    thread_ = std::thread([this] {
      while (!ending_) static_cast<void>(loop_.run_once(-1));
    });
  }
  void stop() {
    on([this] { ending_ = true; });
    thread_.join();
  }

  void on(const std::function<void()>& work) {
    std::unique_lock lock(mutex_);
    work_ = &work;
    const uint64_t one = 1;
    REQUIRE(::write(bell_.get(), &one, sizeof one) == sizeof one);
    const bool answered =
        answered_.wait_for(lock, std::chrono::seconds(60), [&] { return work_ == nullptr; });
    work_ = nullptr;  // the caller's, which may be gone when the loop comes to it
    REQUIRE(answered);
  }

 private:
  void answer() {
    uint64_t count = 0;
    static_cast<void>(::read(bell_.get(), &count, sizeof count) == sizeof count);
    const std::lock_guard guard(mutex_);
    if (work_ != nullptr) (*work_)();
    work_ = nullptr;
    answered_.notify_one();
  }

  Loop& loop_;
  Fd bell_;
  std::mutex mutex_;
  std::condition_variable answered_;
  const std::function<void()>* work_ = nullptr;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace pv::test
