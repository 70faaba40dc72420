// SPDX-License-Identifier: MIT
#include <cerrno>
#include <cstdlib>
#include <deque>
#include <fcntl.h>
#include <liburing.h>
#include <sys/eventfd.h>

#include "blk/backend/async_io.hpp"

namespace pv::blk {
namespace {

constexpr unsigned k_entries = 128;

class UringIo final : public AsyncIo {
 public:
  explicit UringIo(Loop& loop) : loop_(loop) {}
  ~UringIo() override {
    if (event_) loop_.unwatch(event_.get());
    if (ready_) io_uring_queue_exit(&ring_);
  }

  Result<> open() {
    if (const int err = io_uring_queue_init(k_entries, &ring_, 0); err < 0)
      return fail_errno("io_uring_queue_init", -err);
    ready_ = true;
    event_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!event_) return fail_errno("eventfd", errno);
    if (const int err = io_uring_register_eventfd(&ring_, event_.get()); err < 0)
      return fail_errno("io_uring_register_eventfd", -err);
    return loop_.watch(event_.get(), EPOLLIN, [this](uint32_t) { reap(); });
  }

  void start(AsyncCall& call) override {
    waiting_.push_back(&call);
    if (submit_posted_) return;
    submit_posted_ = true;
    loop_.post([this] {
      submit_posted_ = false;
      submit();
    });
  }

  const char* name() const override { return "io_uring"; }

 private:
  static void prepare(io_uring_sqe* sqe, const AsyncCall& call) {
    switch (call.kind) {
      case AsyncCall::readv:
        io_uring_prep_readv2(sqe, call.fd, call.data, static_cast<unsigned>(call.segments),
                             call.offset, call.mode);
        break;
      case AsyncCall::writev:
        io_uring_prep_writev2(sqe, call.fd, call.data, static_cast<unsigned>(call.segments),
                              call.offset, call.mode);
        break;
      case AsyncCall::fdatasync:
        io_uring_prep_fsync(sqe, call.fd, IORING_FSYNC_DATASYNC);
        break;
      case AsyncCall::fallocate:
        io_uring_prep_fallocate(sqe, call.fd, call.mode, static_cast<off_t>(call.offset),
                                static_cast<off_t>(call.length));
        break;
    }
  }

  // At most k_entries are in the kernel at once, so the completion queue can never overflow.
  void submit() {
    bool any = false;
    while (!waiting_.empty() && in_kernel_ < k_entries) {
      io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
      if (!sqe) break;
      AsyncCall* call = waiting_.front();
      waiting_.pop_front();
      prepare(sqe, *call);
      io_uring_sqe_set_data(sqe, call);
      ++in_kernel_;
      any = true;
    }
    if (any) io_uring_submit(&ring_);
  }

  void reap() {
    uint64_t count;
    [[maybe_unused]] auto n = read(event_.get(), &count, sizeof count);
    io_uring_cqe* cqe = nullptr;
    while (io_uring_peek_cqe(&ring_, &cqe) == 0) {
      auto* call = static_cast<AsyncCall*>(io_uring_cqe_get_data(cqe));
      const int64_t result = cqe->res;
      io_uring_cqe_seen(&ring_, cqe);
      --in_kernel_;
      call->done(*call, result);
    }
    if (!waiting_.empty()) submit();
  }

  Loop& loop_;
  io_uring ring_{};
  bool ready_ = false;
  Fd event_;
  std::deque<AsyncCall*> waiting_;  // bounded by the front ends' limits on requests in flight
  unsigned in_kernel_ = 0;
  bool submit_posted_ = false;
};

}  // namespace

Result<std::unique_ptr<AsyncIo>> make_uring_io(Loop& loop) {
  auto io = std::make_unique<UringIo>(loop);
  TRY(io->open());
  return io;
}

Result<std::unique_ptr<AsyncIo>> AsyncIo::create(Loop& loop) {
  if (getenv("PV_NO_IO_URING") == nullptr)
    if (auto uring = make_uring_io(loop)) return uring;
  return make_pool_io(loop);
}

}  // namespace pv::blk
