// SPDX-License-Identifier: MIT
#include "blk/backend/nbd.hpp"

#include <cstring>
#include <deque>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "blk/backend/libnbd.hpp"
#include "blk/checked.hpp"
#include "blk/child.hpp"

namespace pv::blk {
namespace {

constexpr const char* k_context = "base:allocation";

class NbdDisk final : public Disk {
 public:
  NbdDisk(const LibNbd& nbd, Loop& loop) : nbd_(nbd), loop_(loop) {}
  ~NbdDisk() override {
    if (watched_ >= 0) loop_.unwatch(watched_);
    if (handle_) nbd_.nbd_close(handle_);
  }

  Result<> open(const NbdOptions& options) {
    handle_ = nbd_.nbd_create();
    if (!handle_) return fail(Code::system, nbd_.nbd_get_error());
    nbd_.nbd_set_strict_mode(handle_, 0);  // what the server cannot do, it may say itself
    if (nbd_.nbd_add_meta_context(handle_, k_context) < 0 ||
        nbd_.nbd_connect_unix(handle_, options.socket.c_str()) < 0)
      return fail(Code::io, fmt::format("back end: {}", nbd_.nbd_get_error()));
    geometry_ = options.geometry;
    geometry_.size = static_cast<uint64_t>(nbd_.nbd_get_size(handle_));
    geometry_.read_only = geometry_.read_only || nbd_.nbd_is_read_only(handle_) == 1;
    server_fua_ = nbd_.nbd_can_fua(handle_) == 1;
    if (nbd_.nbd_can_trim(handle_) != 1)
      geometry_.discard = DiscardBehaviour::ignored;
    else
      geometry_.discard = DiscardBehaviour::unspecified;  // NBD promises no more
    can_map_ = nbd_.nbd_can_meta_context(handle_, k_context) == 1;
    can_zero_ = nbd_.nbd_can_zero(handle_) == 1;
    TRY(check_geometry(geometry_));
    watched_ = nbd_.nbd_aio_get_fd(handle_);
    return loop_.watch(watched_, EPOLLIN, [this](uint32_t events) { ready(events); });
  }

  const Geometry& geometry() const override { return geometry_; }

  void submit(Request& request) override {
    if (request.op == Op::cache ||
        (request.op == Op::discard && geometry_.discard == DiscardBehaviour::ignored))
      return request.done(request, 0);
    if (request.op == Op::map && !can_map_) {
      request.extents->push_back({request.length, 0});
      return request.done(request, 0);
    }
    if (dead()) return request.done(request, ESHUTDOWN);
    Job* job = jobs_.take();
    job->request = &request;
    job->disk = this;
    job->error = 0;
    job->flush_after = (request.flags & k_fua) != 0 && !server_fua_ && request.op != Op::flush &&
                       request.op != Op::read && request.op != Op::map;
    if (!start(*job)) {
      const int error = nbd_.nbd_get_errno();
      jobs_.give(job);
      return request.done(request, error != 0 ? error : EIO);
    }
    if (!finished_.empty()) loop_.post([this] { drain(); });
    update_interest();
  }

  void inspect(json& out) const override {
    out["backend"] = {{"type", "nbd"}, {"connected", !dead()}};
  }

 private:
  struct Job {
    Request* request = nullptr;
    NbdDisk* disk = nullptr;
    std::vector<char> bounce;  // for requests in several pieces
    std::vector<char> zeroes;
    int error = 0;
    bool flush_after = false;  // FUA where the server has none: a flush before the answer
  };

  bool dead() const {
    return nbd_.nbd_aio_is_dead(handle_) == 1 || nbd_.nbd_aio_is_closed(handle_) == 1;
  }

  static char* buffer_of(Job& job) {
    const Request& request = *job.request;
    if (request.segments == 1) return static_cast<char*>(request.data[0].iov_base);
    job.bounce.resize(request.length);
    if (request.op == Op::write) copy(job, true);
    return job.bounce.data();
  }

  static void copy(Job& job, bool gather) {
    size_t at = 0;
    for (int i = 0; i < job.request->segments; ++i) {
      const iovec& segment = job.request->data[i];
      if (gather)
        std::memcpy(job.bounce.data() + at, segment.iov_base, segment.iov_len);
      else
        std::memcpy(segment.iov_base, job.bounce.data() + at, segment.iov_len);
      at += segment.iov_len;
    }
  }

  bool start(Job& job) {
    const Request& r = *job.request;
    const nbd_completion_callback done = {completed, &job, nullptr};
    const bool fua = (r.flags & k_fua) != 0 && server_fua_;
    const uint32_t flags = fua ? LIBNBD_CMD_FLAG_FUA : 0;
    switch (r.op) {
      case Op::read:
        return nbd_.nbd_aio_pread(handle_, buffer_of(job), r.length, r.offset, done, 0) >= 0;
      case Op::write:
        return nbd_.nbd_aio_pwrite(handle_, buffer_of(job), r.length, r.offset, done, flags) >= 0;
      case Op::flush:
        return nbd_.nbd_aio_flush(handle_, done, 0) >= 0;
      case Op::discard:
        return nbd_.nbd_aio_trim(handle_, r.length, r.offset, done, flags) >= 0;
      case Op::zero:
        if (!can_zero_) {
          job.zeroes.assign(r.length, 0);
          return nbd_.nbd_aio_pwrite(handle_, job.zeroes.data(), r.length, r.offset, done, flags) >=
                 0;
        }
        return nbd_.nbd_aio_zero(
                   handle_, r.length, r.offset, done,
                   flags | ((r.flags & k_no_unmap) != 0 ? LIBNBD_CMD_FLAG_NO_HOLE : 0)) >= 0;
      case Op::map: {
        const nbd_extent_callback extent = {got_extents, &job, nullptr};
        return nbd_.nbd_aio_block_status(handle_, r.length, r.offset, extent, done,
                                         (r.flags & k_one) != 0 ? LIBNBD_CMD_FLAG_REQ_ONE : 0) >= 0;
      }
      case Op::cache:
        break;
    }
    return false;
  }

  static int got_extents(void* user, const char*, uint64_t, uint32_t* entries, size_t count, int*) {
    const Job& job = *static_cast<Job*>(user);
    uint64_t covered = 0;
    for (size_t i = 0; i + 1 < count && covered < job.request->length; i += 2) {
      const uint64_t length = std::min<uint64_t>(entries[i], job.request->length - covered);
      if (length == 0) continue;
      job.request->extents->push_back({length, entries[i + 1] & 3});
      covered += length;
    }
    return 0;
  }

  // Called by libnbd from inside notify_*: the real completion is put off until libnbd has
  // returned, because it may submit again.
  static int completed(void* user, int* error) {
    auto& job = *static_cast<Job*>(user);
    job.error = *error;
    job.disk->finished_.push_back(&job);
    return 1;  // retire the command
  }

  void ready(uint32_t events) {
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) nbd_.nbd_aio_notify_read(handle_);
    if ((events & EPOLLOUT) != 0 &&
        (nbd_.nbd_aio_get_direction(handle_) & LIBNBD_AIO_DIRECTION_WRITE) != 0)
      nbd_.nbd_aio_notify_write(handle_);
    drain();
  }

  void drain() {
    while (!finished_.empty()) {
      Job* job = finished_.front();
      finished_.pop_front();
      finish(*job);
    }
    update_interest();
  }

  void finish(Job& job) {
    Request* request = job.request;
    int error = job.error;
    if (error == ENOTCONN) error = ESHUTDOWN;
    if (error == 0 && request->op == Op::read && request->segments != 1) copy(job, false);
    if (error == 0 && request->op == Op::map && request->extents->empty()) error = EIO;
    if (error == 0 && std::exchange(job.flush_after, false)) {
      const nbd_completion_callback done = {completed, &job, nullptr};
      if (nbd_.nbd_aio_flush(handle_, done, 0) >= 0) return;
      error = EIO;
    }
    jobs_.give(&job);
    request->done(*request, error);
  }

  void update_interest() {
    if (watched_ < 0) return;
    if (dead()) {
      loop_.unwatch(watched_);
      watched_ = -1;
      return;
    }
    const unsigned direction = nbd_.nbd_aio_get_direction(handle_);
    uint32_t wanted = 0;
    if ((direction & LIBNBD_AIO_DIRECTION_READ) != 0) wanted |= EPOLLIN;
    if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) wanted |= EPOLLOUT;
    if (wanted == interest_) return;
    interest_ = wanted;
    loop_.change(watched_, wanted);
  }

  const LibNbd& nbd_;
  Loop& loop_;
  nbd_handle* handle_ = nullptr;
  int watched_ = -1;
  uint32_t interest_ = EPOLLIN;
  Geometry geometry_;
  bool can_map_ = false;
  bool can_zero_ = false;
  Pool<Job> jobs_;
  std::deque<Job*> finished_;
  bool server_fua_ = false;
};

}  // namespace

Result<std::unique_ptr<Disk>> make_nbd_disk(const NbdOptions& options, Loop& loop) {
  TRY_ASSIGN(const LibNbd* nbd, load_libnbd());
  auto disk = std::make_unique<NbdDisk>(*nbd, loop);
  TRY(disk->open(options));
  return disk;
}

}  // namespace pv::blk
