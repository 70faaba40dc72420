// SPDX-License-Identifier: MIT
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <fcntl.h>
#include <mutex>
#include <sys/eventfd.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "blk/backend/async_io.hpp"

namespace pv::blk {
namespace {

constexpr size_t k_threads = 4;

int64_t run(const AsyncCall& call) {
  int64_t result = -1;
  switch (call.kind) {
    case AsyncCall::readv:
      result =
          preadv2(call.fd, call.data, call.segments, static_cast<off_t>(call.offset), call.mode);
      break;
    case AsyncCall::writev:
      result =
          pwritev2(call.fd, call.data, call.segments, static_cast<off_t>(call.offset), call.mode);
      break;
    case AsyncCall::fdatasync:
      result = ::fdatasync(call.fd);
      break;
    case AsyncCall::fallocate:
      result = ::fallocate(call.fd, call.mode, static_cast<off_t>(call.offset),
                           static_cast<off_t>(call.length));
      break;
  }
  return result < 0 ? -errno : result;
}

class PoolIo final : public AsyncIo {
 public:
  explicit PoolIo(Loop& loop) : loop_(loop) {}
  ~PoolIo() override {
    {
      std::lock_guard guard(mutex_);
      stopping_ = true;
    }
    work_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    if (event_) loop_.unwatch(event_.get());
  }

  Result<> open() {
    event_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!event_) return fail_errno("eventfd", errno);
    TRY(loop_.watch(event_.get(), EPOLLIN, [this](uint32_t) { reap(); }));
    sigset_t all, old;  // signals belong to the loop's thread
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (size_t i = 0; i < k_threads; ++i) threads_.emplace_back([this] { work(); });
    pthread_sigmask(SIG_SETMASK, &old, nullptr);
    return {};
  }

  void start(AsyncCall& call) override {
    {
      std::lock_guard guard(mutex_);
      queue_.push_back(&call);
    }
    work_.notify_one();
  }

  const char* name() const override { return "threads"; }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      work_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (stopping_) return;
      AsyncCall* call = queue_.front();
      queue_.pop_front();
      lock.unlock();
      const int64_t result = run(*call);
      lock.lock();
      finished_.emplace_back(call, result);
      const uint64_t one = 1;
      [[maybe_unused]] auto n = write(event_.get(), &one, sizeof one);
    }
  }

  void reap() {
    uint64_t count;
    [[maybe_unused]] auto n = read(event_.get(), &count, sizeof count);
    std::vector<std::pair<AsyncCall*, int64_t>> batch;
    {
      std::lock_guard guard(mutex_);
      batch.swap(finished_);
    }
    for (auto& [call, result] : batch) call->done(*call, result);
  }

  Loop& loop_;
  Fd event_;
  std::mutex mutex_;  // guards what follows, up to stopping_
  std::condition_variable work_;
  std::deque<AsyncCall*> queue_;
  std::vector<std::pair<AsyncCall*, int64_t>> finished_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

Result<std::unique_ptr<AsyncIo>> make_pool_io(Loop& loop) {
  auto io = std::make_unique<PoolIo>(loop);
  TRY(io->open());
  return io;
}

}  // namespace pv::blk
