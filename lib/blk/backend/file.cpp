// SPDX-License-Identifier: MIT
#include "blk/backend/file.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/json.hpp"
#include "blk/backend/window.hpp"
#include "blk/checked.hpp"
#include "blk/child.hpp"
#include "blk/state.hpp"

namespace pv::blk {
namespace {

constexpr size_t k_file_zeroes = 1 << 20;
constexpr int k_max_extents = 4096;

class FileDisk final : public Disk {
 public:
  FileDisk(Fd fd, const Geometry& geometry, AsyncIo& io)
      : fd_(std::move(fd)),
        geometry_(geometry),
        io_(io),
        window_(Window::open(fd_.get(), geometry.size)) {}

  const Geometry& geometry() const override { return geometry_; }
  Result<> save_state(StateOut& out) override { return out.content(*this, fd_.get()); }

  void submit(Request& request) override {
    switch (request.op) {
      case Op::read:
        return read(request);
      case Op::write:
        return write(request);
      case Op::flush:
        return start(request, AsyncCall::fdatasync, 0);
      case Op::discard:
        return start(request, AsyncCall::fallocate, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
      case Op::zero:
        return start(request, AsyncCall::fallocate,
                     (request.flags & k_no_unmap) != 0
                         ? FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE
                         : FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
      case Op::map:
        return map(request);
      case Op::cache:
        posix_fadvise(fd_.get(), at(request), static_cast<off_t>(request.length),
                      POSIX_FADV_WILLNEED);
        return request.done(request, 0);
    }
  }

  // A file is cut or grown; a device has the size that it has.
  Result<> resize(uint64_t size) override {
    struct stat st {};
    if (fstat(fd_.get(), &st) < 0) return fail_errno("cannot stat the image", errno);
    if (!S_ISREG(st.st_mode))
      return fail(Code::unsupported, "a block device cannot be resized from here");
    Geometry wanted = geometry_;
    wanted.size = size;
    TRY(check_geometry(wanted));
    if (ftruncate(fd_.get(), static_cast<off_t>(size)) < 0)
      return fail_errno("cannot resize the image", errno);
    geometry_ = wanted;
    // Answers that are still to be sent may lie in the old one.
    if (window_) outlived_.push_back(std::move(window_));
    window_ = Window::open(fd_.get(), size);
    return {};
  }

  void inspect(json& out) const override {
    const Result<uint64_t> now = size_of_file(fd_.get(), "the image");
    out["backend"] = {{"type", "file"},
                      {"async", io_.name()},
                      {"backing_size_bytes", now ? json(*now) : json(nullptr)},
                      {"resized_outside", now && *now != geometry_.size},
                      {"bytes_backing", bytes_backing_},
                      {"bytes_zero_filled", bytes_zero_filled_},
                      {"short_writes", short_writes_}};
  }

 private:
  // One request that could not be finished inline.
  struct Pending {
    AsyncCall call;
    Request* request = nullptr;
    FileDisk* disk = nullptr;
    uint64_t finished = 0;     // bytes of a read that are already there
    std::vector<iovec> rest;   // what is still to be read
    uint64_t zero_offset = 0;  // zeroing by writing, where fallocate cannot
  };

  static off_t at(const Request& request) { return static_cast<off_t>(request.offset); }

  // What the page cache holds is lent rather than copied.
  bool lend(Request& request) {
    if (!window_) return false;
    const char* bytes = window_->look(request.offset, request.length);
    if (bytes == nullptr) return false;
    Loan& loan = *request.loan;
    if (loan.pipe >= 0) {
      if (!fill_pipe(request)) return false;
    } else {
      loan.kind = Loan::memory;
      loan.at = bytes;
    }
    bytes_backing_ += request.length;
    request.done(request, 0);
    return true;
  }

  bool fill_pipe(Request& request) {
    loff_t from = at(request);
    for (uint64_t left = request.length; left != 0;) {
      const ssize_t n =
          splice(fd_.get(), &from, request.loan->pipe, nullptr, left, SPLICE_F_NONBLOCK);
      if (n <= 0) {  // cut short from outside, or a medium error: the plain way tells which
        request.loan->kind = left == request.length ? Loan::none : Loan::spoiled;
        return false;
      }
      left -= static_cast<uint64_t>(n);
    }
    request.loan->kind = Loan::piped;
    return true;
  }

  void read(Request& request) {
    if (request.loan != nullptr && lend(request)) return;
    const ssize_t n =
        nowait_ ? preadv2(fd_.get(), request.data, request.segments, at(request), RWF_NOWAIT)
                : preadv(fd_.get(), request.data, request.segments, at(request));
    if (n == static_cast<ssize_t>(request.length)) {
      bytes_backing_ += request.length;
      return request.done(request, 0);
    }
    if (n < 0 && errno == EOPNOTSUPP && nowait_) {
      nowait_ = false;  // a file system that never blocks for long, such as tmpfs on older kernels
      return read(request);
    }
    if (n < 0 && errno != EAGAIN && errno != EINTR) return request.done(request, errno);
    continue_read(request, n < 0 ? 0 : static_cast<uint64_t>(n));
  }

  void continue_read(Request& request, uint64_t have) {
    Pending* pending = take(request);
    pending->finished = have;
    read_rest(*pending);
  }

  void read_rest(Pending& pending) {
    const Request& request = *pending.request;
    pending.rest.clear();
    uint64_t skip = pending.finished;
    for (int i = 0; i < request.segments; ++i) {
      const iovec& segment = request.data[i];
      if (skip < segment.iov_len)
        pending.rest.push_back(
            {static_cast<char*>(segment.iov_base) + skip, segment.iov_len - skip});
      skip -= std::min<uint64_t>(skip, segment.iov_len);
    }
    AsyncCall& call = pending.call;
    call.kind = AsyncCall::readv;
    call.mode = 0;
    call.data = pending.rest.data();
    call.segments = static_cast<int>(pending.rest.size());
    call.offset = request.offset + pending.finished;
    call.done = [](AsyncCall& done, int64_t result) {
      auto& p = *static_cast<Pending*>(done.owner);
      p.disk->read_done(p, result);
    };
    io_.start(call);
  }

  void read_done(Pending& pending, int64_t result) {
    if (result == -EINTR || result == -EAGAIN) return read_rest(pending);
    if (result < 0) return finish(pending, static_cast<int>(-result));
    pending.finished += static_cast<uint64_t>(result);
    if (result > 0 && pending.finished < pending.request->length) return read_rest(pending);
    bytes_backing_ += pending.finished;
    // Inside the capacity but past the end of the file: somebody has cut it. Zeroes, counted apart.
    uint64_t skip = pending.finished;
    for (int i = 0; i < pending.request->segments; ++i) {
      const iovec& segment = pending.request->data[i];
      if (skip < segment.iov_len) {
        std::memset(static_cast<char*>(segment.iov_base) + skip, 0, segment.iov_len - skip);
        bytes_zero_filled_ += segment.iov_len - skip;
      }
      skip -= std::min<uint64_t>(skip, segment.iov_len);
    }
    finish(pending, 0);
  }

  void write(Request& request) {
    if ((request.flags & k_fua) != 0) return start_write(request, RWF_DSYNC);
    // Page-cache writes are inline: they copy, and block only where the kernel throttles writers.
    const ssize_t n = pwritev(fd_.get(), request.data, request.segments, at(request));
    if (n == static_cast<ssize_t>(request.length)) return request.done(request, 0);
    if (n < 0 && errno == EINTR) return write(request);
    if (n < 0) return request.done(request, errno);
    ++short_writes_;  // never retried: the caller is told that it did not happen as asked
    request.done(request, why_short(request));
  }

  // A write that ends early does not say why. Mostly the disk is full.
  int why_short(const Request& request) const {
    const uint64_t end = request.offset + request.length;
    rlimit limit{};
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && end > limit.rlim_cur) return EFBIG;
    struct statvfs st {};
    const bool asked = fstatvfs(fd_.get(), &st) == 0;
    return asked && st.f_bavail * st.f_frsize < request.length ? ENOSPC : EIO;
  }

  void start_write(Request& request, int flags) {
    Pending* pending = take(request);
    pending->call.kind = AsyncCall::writev;
    pending->call.mode = flags;
    pending->call.data = request.data;
    pending->call.segments = request.segments;
    pending->call.offset = request.offset;
    pending->call.done = [](AsyncCall& call, int64_t result) {
      auto& p = *static_cast<Pending*>(call.owner);
      if (result == -EINTR || result == -EAGAIN) return p.disk->io_.start(call);
      int error = result < 0 ? static_cast<int>(-result) : 0;
      if (result >= 0 && static_cast<uint64_t>(result) != p.request->length) {
        ++p.disk->short_writes_;
        error = p.disk->why_short(*p.request);
      }
      p.disk->finish(p, error);
    };
    io_.start(pending->call);
  }

  // fdatasync and fallocate.
  void start(Request& request, AsyncCall::Kind kind, int mode) {
    Pending* pending = take(request);
    if (window_ && kind == AsyncCall::fallocate) window_->forget(request.offset, request.length);
    pending->call.kind = kind;
    pending->call.mode = mode;
    pending->call.offset = request.offset;
    pending->call.length = request.length;
    pending->call.done = [](AsyncCall& call, int64_t result) {
      auto& p = *static_cast<Pending*>(call.owner);
      p.disk->changed(p, result);
    };
    io_.start(pending->call);
  }

  void changed(Pending& pending, int64_t result) {
    const Request& request = *pending.request;
    if (result == -EINTR || result == -EAGAIN) return io_.start(pending.call);
    if (pending.call.kind == AsyncCall::fallocate && result == -EOPNOTSUPP) {
      pending.zero_offset = 0;
      return zero_by_writing(pending);
    }
    // Again: it may have been looked at while the call was under way.
    if (window_) window_->forget(request.offset, request.length);
    if (result < 0) return finish(pending, static_cast<int>(-result));
    if (pending.call.kind == AsyncCall::fallocate && (request.flags & k_fua) != 0) {
      pending.call.kind = AsyncCall::fdatasync;
      return io_.start(pending.call);
    }
    finish(pending, 0);
  }

  void zero_by_writing(Pending& pending) {
    static const std::array<char, k_file_zeroes> zeroes{};
    const Request& request = *pending.request;
    const uint64_t left = request.length - pending.zero_offset;
    if (left == 0) return finish(pending, 0);
    const size_t n = std::min<uint64_t>(left, k_file_zeroes);
    pending.rest.assign(1, {const_cast<char*>(zeroes.data()), n});
    pending.call.kind = AsyncCall::writev;
    pending.call.mode = (request.flags & k_fua) != 0 ? RWF_DSYNC : 0;
    pending.call.data = pending.rest.data();
    pending.call.segments = 1;
    pending.call.offset = request.offset + pending.zero_offset;
    pending.call.done = [](AsyncCall& call, int64_t result) {
      auto& p = *static_cast<Pending*>(call.owner);
      if (result <= 0) return p.disk->finish(p, result < 0 ? static_cast<int>(-result) : EIO);
      p.zero_offset += static_cast<uint64_t>(result);
      p.disk->zero_by_writing(p);
    };
    io_.start(pending.call);
  }

  void map(Request& request) {
    const off_t end = at(request) + static_cast<off_t>(request.length);
    off_t position = at(request);
    for (int i = 0; position < end && i < k_max_extents; ++i) {
      off_t data = lseek(fd_.get(), position, SEEK_DATA);
      if (data < 0) data = errno == ENXIO ? end : position;
      const bool hole = data > position;
      off_t next = hole ? data : lseek(fd_.get(), position, SEEK_HOLE);
      if (next <= position || next > end) next = end;
      request.extents->push_back(
          {static_cast<uint64_t>(next - position), hole ? k_hole | k_zero : 0U});
      position = next;
      if ((request.flags & k_one) != 0) break;
    }
    request.done(request, 0);
  }

  Pending* take(Request& request) {
    Pending* pending = pool_.take();
    pending->call = AsyncCall{};
    pending->call.fd = fd_.get();
    pending->call.owner = pending;
    pending->request = &request;
    pending->disk = this;
    pending->finished = 0;
    return pending;
  }

  void finish(Pending& pending, int error) {
    Request* request = pending.request;
    pool_.give(&pending);
    request->done(*request, error);
  }

  Fd fd_;
  Geometry geometry_;
  AsyncIo& io_;
  std::unique_ptr<Window> window_;  // null where the file cannot be mapped
  std::vector<std::unique_ptr<Window>> outlived_;
  Pool<Pending> pool_;
  bool nowait_ = true;
  uint64_t bytes_backing_ = 0;
  uint64_t bytes_zero_filled_ = 0;
  uint64_t short_writes_ = 0;
};

}  // namespace

std::unique_ptr<Disk> make_file_disk(Fd fd, const Geometry& geometry, AsyncIo& io) {
  return std::make_unique<FileDisk>(std::move(fd), geometry, io);
}

Result<uint64_t> size_of_file(int fd, const std::string& path) {
  struct stat st {};
  if (fstat(fd, &st) < 0) return fail_errno("cannot stat " + path, errno);
  if (S_ISREG(st.st_mode)) return static_cast<uint64_t>(st.st_size);
  uint64_t size = 0;
  if (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, &size) == 0) return size;
  const char* what = S_ISDIR(st.st_mode) ? "a directory" : "no regular file or block device";
  return fail(Code::no_image, path + " is " + what);
}

}  // namespace pv::blk
