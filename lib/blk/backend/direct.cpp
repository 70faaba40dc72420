// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/json.hpp"
#include "blk/backend/file.hpp"
#include "blk/child.hpp"

namespace pv::blk {
namespace {

constexpr uint32_t k_safe_alignment = 4096;  // where nobody says what the device wants

struct Alignment {
  uint32_t memory = k_safe_alignment;
  uint32_t offset = k_safe_alignment;  // and length
};

// Reads and writes past the page cache; everything else is the file back end's below. Ranges that
// are changed are kept apart: a request that covers part of an aligned block reads and writes the
// whole block, and must not meet another one there.
class DirectDisk final : public Forward {
 public:
  DirectDisk(std::unique_ptr<Disk> lower, Fd fd, const Alignment& alignment, AsyncIo& io)
      : Forward(std::move(lower)), fd_(std::move(fd)), alignment_(alignment), io_(io) {}

  void submit(Request& request) override {
    if (request.op == Op::flush || request.op == Op::map || request.op == Op::cache)
      return Forward::submit(request);
    Job* job = jobs_.take();
    job->request = &request;
    job->disk = this;
    job->begin = request.offset / alignment_.offset * alignment_.offset;
    job->end = (request.offset + request.length + alignment_.offset - 1) / alignment_.offset *
               alignment_.offset;
    job->whole = job->begin == request.offset && job->end == request.offset + request.length;
    job->merged = false;
    if (request.op == Op::read) return start(*job);
    waiting_.push_back(job);
    admit();
  }

  void inspect(json& out) const override {
    Forward::inspect(out);
    out["backend"]["direct"] = {{"memory_alignment", alignment_.memory},
                                {"offset_alignment", alignment_.offset},
                                {"bounced", bounced_},
                                {"merged", merged_},
                                {"past_end", past_end_}};
  }

 private:
  struct Job {
    AsyncCall call;
    Request child;  // for the file back end
    Request* request = nullptr;
    DirectDisk* disk = nullptr;
    uint64_t begin = 0, end = 0;  // the aligned range around the request
    bool whole = false;           // which it covers
    bool bounce = false;
    bool merged = false;  // the blocks around a ragged write have been read
    uint64_t finished = 0;
    std::vector<char> memory;
    iovec piece{};
    std::vector<iovec> rest;

    char* aligned(uint32_t alignment) {
      memory.resize(end - begin + alignment);
      const auto address = reinterpret_cast<uintptr_t>(memory.data());
      return memory.data() + (alignment - address % alignment) % alignment;
    }
  };

  bool fits(const Job& job) const {
    if (!job.whole) return false;
    const Request& request = *job.request;
    for (int i = 0; i < request.segments; ++i) {
      const auto address = reinterpret_cast<uintptr_t>(request.data[i].iov_base);
      if (address % alignment_.memory != 0 || request.data[i].iov_len % alignment_.offset != 0)
        return false;
    }
    return true;
  }

  // Lets in, in order, every write that meets none that is under way where it may not.
  void admit() {
    while (!waiting_.empty()) {
      Job* job = waiting_.front();
      for (const Job* other : writing_)
        if (job->begin < other->end && other->begin < job->end && !(job->whole && other->whole))
          return;
      waiting_.pop_front();
      writing_.push_back(job);
      start(*job);
    }
  }

  void start(Job& job) {
    const Op op = job.request->op;
    if (op == Op::zero || op == Op::discard) return pass_on(job);
    // The last block of a file that ends within it: a whole one would make the file longer.
    if (op == Op::write && job.end > geometry().size) {
      ++past_end_;
      return pass_on(job);
    }
    job.finished = 0;
    job.bounce = !fits(job);
    if (job.bounce) {
      ++bounced_;
      job.piece = {job.aligned(alignment_.memory), job.end - job.begin};
    }
    if (job.request->op == Op::read) return transfer(job, AsyncCall::readv);
    if (job.whole) {
      if (job.bounce) scatter(job, 0, false);
      return transfer(job, AsyncCall::writev);
    }
    ++merged_;
    transfer(job, AsyncCall::readv);
  }

  void pass_on(Job& job) {
    make_child(job.child, *job.request, &job, [](Request& child, int error) {
      auto& finished = *static_cast<Job*>(child.owner);
      finished.disk->finish(finished, error);
    });
    lower().submit(job.child);
  }

  // Between the request's segments and the buffer, from byte `from` of the request on.
  static void scatter(Job& job, uint64_t from, bool to_segments) {
    char* buffer = static_cast<char*>(job.piece.iov_base) + (job.request->offset - job.begin);
    uint64_t at = 0;
    for (int i = 0; i < job.request->segments; ++i) {
      const iovec& segment = job.request->data[i];
      if (to_segments && at >= from) std::memcpy(segment.iov_base, buffer + at, segment.iov_len);
      if (!to_segments) std::memcpy(buffer + at, segment.iov_base, segment.iov_len);
      at += segment.iov_len;
    }
  }

  // What is left of a transfer, from `finished` on.
  void transfer(Job& job, AsyncCall::Kind kind) {
    const iovec* data = job.bounce ? &job.piece : job.request->data;
    const int segments = job.bounce ? 1 : job.request->segments;
    job.rest.clear();
    uint64_t skip = job.finished;
    for (int i = 0; i < segments; ++i) {
      const uint64_t here = std::min<uint64_t>(skip, data[i].iov_len);
      if (here < data[i].iov_len)
        job.rest.push_back({static_cast<char*>(data[i].iov_base) + here, data[i].iov_len - here});
      skip -= here;
    }
    job.call = AsyncCall{};
    job.call.kind = kind;
    job.call.fd = fd_.get();
    job.call.mode = kind == AsyncCall::writev && (job.request->flags & k_fua) != 0 ? RWF_DSYNC : 0;
    job.call.data = job.rest.data();
    job.call.segments = static_cast<int>(job.rest.size());
    job.call.offset = job.begin + job.finished;
    job.call.owner = &job;
    job.call.done = [](AsyncCall& call, int64_t result) {
      auto& finished = *static_cast<Job*>(call.owner);
      finished.disk->transferred(finished, result);
    };
    io_.start(job.call);
  }

  void transferred(Job& job, int64_t result) {
    if (result == -EINTR || result == -EAGAIN) return io_.start(job.call);
    if (result < 0) return finish(job, static_cast<int>(-result));
    job.finished += static_cast<uint64_t>(result);
    const uint64_t length = job.end - job.begin;
    if (job.call.kind ==
        AsyncCall::writev)  // a short one is never retried, as in the file back end
      return finish(job, job.finished == length ? 0 : EIO);
    // Another round after a short read, unless it ended where no direct read can go on: there the
    // file ends.
    const bool can_go_on = result > 0 && job.finished % alignment_.offset == 0;
    if (job.finished < length && can_go_on) return transfer(job, AsyncCall::readv);
    if (job.finished < length) zero_rest(job);
    if (job.request->op == Op::read) {
      if (job.bounce) scatter(job, 0, true);
      return finish(job, 0);
    }
    scatter(job, 0, false);
    job.finished = 0;
    transfer(job, AsyncCall::writev);
  }

  // Past the end of the file there are zeroes.
  static void zero_rest(Job& job) {
    const iovec* data = job.bounce ? &job.piece : job.request->data;
    const int segments = job.bounce ? 1 : job.request->segments;
    uint64_t skip = job.finished;
    for (int i = 0; i < segments; ++i) {
      const uint64_t here = std::min<uint64_t>(skip, data[i].iov_len);
      std::memset(static_cast<char*>(data[i].iov_base) + here, 0, data[i].iov_len - here);
      skip -= here;
    }
  }

  void finish(Job& job, int error) {
    Request* request = job.request;
    const auto under_way = std::find(writing_.begin(), writing_.end(), &job);
    const bool was_writing = under_way != writing_.end();
    if (was_writing) writing_.erase(under_way);
    jobs_.give(&job);
    request->done(*request, error);
    if (was_writing) admit();
  }

  Fd fd_;
  Alignment alignment_;
  AsyncIo& io_;
  Pool<Job> jobs_;
  std::deque<Job*> waiting_;  // bounded by the front ends' limits on requests in flight
  std::vector<Job*> writing_;
  uint64_t bounced_ = 0;
  uint64_t merged_ = 0;
  uint64_t past_end_ = 0;
};

// What statx(2) says (STATX_DIOALIGN, Linux 6.1), or the device's sectors.
Result<Alignment> alignment_of(int fd, const std::string& path) {
  Alignment alignment;
  struct statx st {};
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN | STATX_TYPE, &st) < 0)
    return fail_errno("cannot stat " + path, errno);
  if ((st.stx_mask & STATX_DIOALIGN) != 0) {
    if (st.stx_dio_offset_align == 0)
      return fail(Code::unsupported, fmt::format("{}: this file has no O_DIRECT", path));
    alignment.memory = std::max(st.stx_dio_mem_align, 1U);
    alignment.offset = st.stx_dio_offset_align;
    return alignment;
  }
  int sector = 0;
  if (S_ISBLK(st.stx_mode) && ioctl(fd, BLKSSZGET, &sector) == 0 && sector > 0)
    alignment.memory = alignment.offset = static_cast<uint32_t>(sector);
  return alignment;
}

}  // namespace

Result<std::unique_ptr<Disk>> make_direct_disk(Fd fd, const Geometry& geometry, AsyncIo& io,
                                               const std::string& path, uint32_t at_least) {
  const int mode = geometry.read_only ? O_RDONLY : O_RDWR;
  const std::string again = fmt::format("/proc/self/fd/{}", fd.get());
  Fd direct(open(again.c_str(), mode | O_DIRECT | O_CLOEXEC));
  if (!direct && errno == EINVAL)
    return fail(Code::unsupported, fmt::format("{}: its file system has no O_DIRECT", path));
  if (!direct) return fail_errno(fmt::format("cannot open {} with O_DIRECT", path), errno);
  TRY_ASSIGN(Alignment alignment, alignment_of(direct.get(), path));
  alignment.memory = std::max(alignment.memory, at_least);
  alignment.offset = std::max(alignment.offset, at_least);
  return std::make_unique<DirectDisk>(make_file_disk(std::move(fd), geometry, io),
                                      std::move(direct), alignment, io);
}

}  // namespace pv::blk
