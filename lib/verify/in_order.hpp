// SPDX-License-Identifier: MIT
// Work on the pieces of a disk in several threads, with the results in the order of the pieces.
// Slow output holds back reading: no more pieces are begun than fit a window, and none while much
// is waiting to be put out. The window is wide, because on a busy machine the thread that puts
// things out may have to wait milliseconds for its turn.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "base/clock.hpp"
#include "base/defer.hpp"
#include "base/result.hpp"

namespace pv::verify {

constexpr unsigned k_max_jobs = 64;

template <class Piece, class Out>
struct InOrder {
  // Fills in the next piece; false when there is none. One thread at a time.
  std::function<Result<bool>(Piece& piece)> next;
  // In several threads at the same time; `job` tells them apart, from 0 on.
  std::function<Result<>(unsigned job, const Piece& piece, Out& out)> work;
  // In the calling thread, piece by piece. The results before a failed piece come out.
  std::function<Result<>(const Piece& piece, Out& out)> emit;
  // How much memory a result takes.
  std::function<size_t(const Out& out)> weight = [](const Out&) { return size_t{0}; };
  // In the calling thread, every now and then.
  std::function<void()> tick = [] {};

  // Code::timeout when it is not done by `deadline`; a piece in work is waited for.
  Result<> run(unsigned jobs, const Deadline& deadline);

 private:
  struct Slot {
    Piece piece;
    Out out;
    Result<> result;
    bool done = false;
  };
  static constexpr uint64_t k_tick_ns = 100 * k_ns_per_ms;
  static constexpr size_t k_window = 64;
  static constexpr size_t k_max_held = 16 << 20;  // bytes

  void work_on(unsigned job);
  Result<> collect(const Deadline& deadline);

  std::mutex mutex_;
  std::condition_variable changed_;  // a slot is free
  std::condition_variable done_;     // a piece is done, or a worker has ended
  std::vector<Slot> slots_;
  uint64_t begun_ = 0, emitted_ = 0;  // pieces
  unsigned working_ = 0;              // threads
  size_t held_ = 0;                   // bytes of results
  bool stopping_ = false, exhausted_ = false;
};

template <class Piece, class Out>
void InOrder<Piece, Out>::work_on(unsigned job) {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] {
      return stopping_ || exhausted_ || (begun_ - emitted_ < k_window && held_ < k_max_held);
    });
    if (stopping_ || exhausted_) break;
    Slot& slot = slots_[begun_ % k_window];
    Result<bool> more = next(slot.piece);
    if (more && !*more) {
      exhausted_ = true;
      break;
    }
    ++begun_;
    slot.done = false;
    slot.result = more ? Result<>() : fail(more.error());
    if (more) {
      lock.unlock();
      Result<> result = work(job, slot.piece, slot.out);
      lock.lock();
      slot.result = std::move(result);
      held_ += weight(slot.out);
    } else {
      exhausted_ = true;
    }
    slot.done = true;
    done_.notify_one();
  }
  --working_;
  changed_.notify_all();
  done_.notify_one();
}

template <class Piece, class Out>
Result<> InOrder<Piece, Out>::collect(const Deadline& deadline) {
  std::unique_lock lock(mutex_);
  while (true) {
    const auto ready = [&] {
      return begun_ > emitted_ ? slots_[emitted_ % k_window].done : working_ == 0;
    };
    if (deadline.passed()) return fail(Code::timeout, "it was not done in time");
    while (!ready()) {
      if (deadline.passed()) return fail(Code::timeout, "it was not done in time");
      const uint64_t wait_ns = std::min(k_tick_ns, deadline.left_ns());
      done_.wait_for(lock, std::chrono::nanoseconds(wait_ns), ready);
      lock.unlock();
      tick();
      lock.lock();
    }
    if (begun_ == emitted_) return {};
    Slot& slot = slots_[emitted_ % k_window];
    lock.unlock();
    TRY(slot.result);
    const size_t weighed = weight(slot.out);
    TRY(emit(slot.piece, slot.out));
    if (weighed != 0) slot.out = Out();  // with the memory that it has
    tick();
    lock.lock();
    held_ -= weighed;
    slot.done = false;
    ++emitted_;
    changed_.notify_one();
  }
}

template <class Piece, class Out>
Result<> InOrder<Piece, Out>::run(unsigned jobs, const Deadline& deadline) {
  slots_.resize(k_window);
  std::vector<std::thread> threads;
  working_ = jobs;
  for (unsigned job = 0; job < jobs; ++job) threads.emplace_back([this, job] { work_on(job); });
  Result<> result = collect(deadline);
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads) thread.join();
  return result;
}

}  // namespace pv::verify
