// SPDX-License-Identifier: MIT
// A blk::Disk belongs to one thread and answers later; here that thread runs its loop, and callers
// hand their requests over and sleep.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <sys/eventfd.h>
#include <thread>

#include <fmt/format.h>

#include "verify/image.hpp"

namespace pv::verify {
namespace {

// One request and who waits for it. Lives on the caller's stack.
struct Call {
  blk::Request request;
  iovec segment{};
  bool done = false;
  int error = 0;
};

class DiskImage final : public Image {
 public:
  DiskImage(std::string name, const Deadline& deadline)
      : name_(std::move(name)), deadline_(deadline) {}
  ~DiskImage() override { halt(); }

  // Returns when the disk is open or cannot be.
  Result<> start(MakeDisk make) {
    wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!wake_) return fail_errno("eventfd", errno);
    thread_ = std::thread([this, make = std::move(make)]() mutable { serve(std::move(make)); });
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return open_ || ended_; });
    return opened_;
  }

  uint64_t size() const override { return geometry_.size; }
  bool read_only() const override { return geometry_.read_only; }
  size_t read_size() const override { return 1 << 20; }  // each costs two changes of thread

  // Requests are whole sectors; the rest of one is read and thrown away.
  Result<> read(uint64_t offset, char* data, size_t length) override {
    const uint64_t sector = geometry_.sector_size;
    const uint64_t begin = offset - offset % sector;
    const uint64_t end = (offset + length + sector - 1) / sector * sector;
    if (begin == offset && end == offset + length) return ask(blk::Op::read, offset, data, length);
    std::vector<char> whole(end - begin);
    TRY(ask(blk::Op::read, begin, whole.data(), whole.size()));
    std::memcpy(data, whole.data() + (offset - begin), length);
    return {};
  }
  Result<> write(uint64_t offset, const char* data, size_t length) override {
    return ask(blk::Op::write, offset, const_cast<char*>(data), length);  // NOLINT: not changed
  }
  Result<> flush() override { return ask(blk::Op::flush, 0, nullptr, 0); }

  Result<> map(uint64_t offset, uint64_t length, std::vector<blk::Extent>& extents) override {
    Call call;
    call.request.op = blk::Op::map;
    call.request.offset = offset;
    call.request.length = length;
    std::vector<blk::Extent> found;
    call.request.extents = &found;
    TRY(submit(call));
    uint64_t covered = 0;
    for (const blk::Extent& extent : found) {
      const uint64_t part = std::min(extent.length, length - covered);
      if (part != 0) extents.push_back({part, extent.flags});
      covered += part;
    }
    if (covered == 0) return fail(Code::io, fmt::format("{} maps nothing at {}", name_, offset));
    return {};
  }

  Result<> unchanged() const override { return {}; }

 private:
  Result<> ask(blk::Op op, uint64_t offset, char* data, size_t length) {
    const uint64_t sector = geometry_.sector_size;
    if (offset % sector != 0 || length % sector != 0)
      return fail(Code::invalid, fmt::format("{} has sectors of {} bytes", name_, sector));
    Call call;
    call.request.op = op;
    call.request.offset = offset;
    call.request.length = length;
    call.segment = {data, length};
    call.request.data = &call.segment;
    call.request.segments = length == 0 ? 0 : 1;
    return submit(call);
  }

  Result<> submit(Call& call) {
    call.request.owner = this;
    call.request.done = [](blk::Request& request, int error) {
      auto& image = *static_cast<DiskImage*>(request.owner);
      const std::lock_guard lock(image.mutex_);
      auto& done = reinterpret_cast<Call&>(request);  // its first member
      done.done = true;
      done.error = error;
      image.changed_.notify_all();
    };
    std::unique_lock lock(mutex_);
    if (ended_) return gone();
    waiting_.push_back(&call);
    eventfd_write(wake_.get(), 1);
    const auto over = [&] { return call.done || ended_; };
    while (!over() && !deadline_.passed())
      changed_.wait_for(lock, std::chrono::nanoseconds(deadline_.left_ns()), over);
    if (!call.done) {
      // Its buffer is the caller's: only when the thread is gone nobody fills it any more.
      lock.unlock();
      halt();
      lock.lock();
    }
    if (!call.done) return gone();
    if (call.error == 0) return {};
    return fail(Code::io,
                fmt::format("cannot {} {} at {}: {}", blk::op_name(call.request.op), name_,
                            call.request.offset, strerrordesc_np(call.error)),
                call.error);
  }

  tl::unexpected<Error> gone() const {
    return fail(Code::timeout, fmt::format("{} did not answer in time", name_));
  }

  // Ends the thread, and with it whatever is in flight.
  void halt() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    eventfd_write(wake_.get(), 1);
    const std::lock_guard lock(join_);
    if (thread_.joinable()) thread_.join();
  }

  // --- on the thread --------------------------------------------------------------------------

  void serve(MakeDisk make) {
    std::unique_ptr<Loop> loop;
    std::unique_ptr<blk::Disk> disk;
    Result<> result = open(make, loop, disk);
    {
      const std::lock_guard lock(mutex_);
      opened_ = result;
      open_ = result.has_value();
      ended_ = !open_;
      changed_.notify_all();
    }
    if (result) static_cast<void>(loop->run());
    disk.reset();
    make = nullptr;  // what the disk stood on; it may need the loop to end
    const std::lock_guard lock(mutex_);
    ended_ = true;
    changed_.notify_all();
  }

  Result<> open(const MakeDisk& make, std::unique_ptr<Loop>& loop,
                std::unique_ptr<blk::Disk>& disk) {
    TRY_ASSIGN(loop, Loop::create());
    TRY_ASSIGN(disk, make(*loop));
    geometry_ = disk->geometry();
    return loop->watch(wake_.get(), EPOLLIN,
                       [this, &l = *loop, &d = *disk](uint32_t) { take_over(l, d); });
  }

  void take_over(Loop& loop, blk::Disk& disk) {
    eventfd_t count = 0;
    eventfd_read(wake_.get(), &count);
    std::vector<Call*> calls;
    {
      const std::lock_guard lock(mutex_);
      calls.swap(waiting_);
      if (stop_) loop.stop();
    }
    for (Call* call : calls) disk.submit(call->request);
  }

  std::string name_;
  Deadline deadline_;
  Fd wake_;
  blk::Geometry geometry_;
  std::mutex mutex_;
  std::mutex join_;
  std::condition_variable changed_;
  std::vector<Call*> waiting_;
  Result<> opened_;
  bool open_ = false, ended_ = false, stop_ = false;
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<Image>> make_disk_image(MakeDisk make, const std::string& name,
                                               const Deadline& deadline) {
  auto image = std::make_unique<DiskImage>(name, deadline);
  TRY(image->start(std::move(make)));
  return image;
}

}  // namespace pv::verify
