// SPDX-License-Identifier: MIT
#include "blk/backend/nbd.hpp"

#include <cerrno>
#include <cstring>
#include <deque>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/backend/nbd_link.hpp"
#include "blk/backend/nbd_loss.hpp"
#include "blk/checked.hpp"
#include "blk/child.hpp"

namespace pv::blk {
namespace {

constexpr const char* k_nbd_context = "base:allocation";
constexpr uint64_t k_connect_ms = 20'000;
// The largest pieces that are sent at once: data that every server takes (the NBD protocol's
// "Block size constraints"), and a range that fits the 32 bits of the wire.
constexpr uint64_t k_data_chunk = 32 << 20;
constexpr uint64_t k_range_chunk = 1 << 30;
constexpr uint64_t k_nbd_zeroes = 1 << 20;
constexpr int k_idle_attempts = 8;

class NbdDisk final : public Disk, private NbdLink::Owner {
 public:
  NbdDisk(const LibNbd& nbd, Loop& loop, const NbdOptions& options)
      : nbd_(nbd),
        loop_(loop),
        options_(options),
        geometry_(options.geometry),
        link_(nbd, loop, *this) {
    geometry_.size = 0;
  }
  ~NbdDisk() override {
    if (timer_ != 0) loop_.cancel(timer_);
  }

  Result<> open() {
    TRY(link_.resolve(options_));
    if (auto up = link_.connect_now(Deadline::in_ms(k_connect_ms)); !up)
      return fail(up.error().code, "back end: " + up.error().message);
    return {};
  }

  const Geometry& geometry() const override { return geometry_; }

  void submit(Request& request) override {
    if (request.op == Op::cache ||
        (request.op == Op::discard && geometry_.discard == DiscardBehaviour::ignored))
      return request.done(request, 0);
    if (request.op == Op::flush && loss_.tell(request.connection))
      return request.done(request, EIO);
    Job* job = jobs_.take();
    job->request = &request;
    job->disk = this;
    job->error = 0;
    job->sent = job->chunk = 0;
    job->flushing = false;
    if (!link_.up()) return park(*job);
    start(*job);
    link_.update();
    if (!finished_.empty()) loop_.post([this] { drain(); });
  }

  Result<json> control(const json& request) override {
    // What a daemon of our own serves is known by its file.
    if (get_string(request, "op") != "base.export" || options_.keeper != nullptr)
      return Disk::control(request);
    return link_.where();
  }

  Result<> resize(uint64_t size) override {
    if (options_.keeper == nullptr)
      return fail(Code::unsupported,
                  "the size of this disk is decided by the NBD server behind it");
    if (!link_.up()) return fail(Code::io, "back end: not connected: " + link_.why());
    if (can_flush_ && (loss_.tell(0) || nbd_.nbd_flush(link_.handle(), 0) < 0))
      return fail(Code::io, "the back end cannot be flushed; not resized", EIO);
    loss_.flushed(loss_.mark());
    link_.close();
    const Result<> resized = options_.keeper->resize(size);
    geometry_.size = 0;  // whatever it now is
    TRY(link_.connect_now(Deadline::in_ms(k_connect_ms)));
    return resized;
  }

  void inspect(json& out) const override {
    json backend = {{"type", "nbd"},
                    {"connected", link_.up()},
                    {"reconnects", connects_ - 1},
                    {"waiting", parked_.size()},
                    {"unflushed_losses", loss_.times()}};
    if (!link_.up()) backend["why"] = link_.why();
    if (options_.keeper) options_.keeper->inspect(backend);
    out["backend"] = std::move(backend);
  }

 private:
  struct Job {
    Request* request = nullptr;
    NbdDisk* disk = nullptr;
    std::vector<char> bounce;  // for requests in several pieces
    int error = 0;
    bool flushing = false;     // FUA where the server has none: a flush before the answer
    uint64_t sent = 0;         // bytes of the request that are done
    uint64_t chunk = 0;        // bytes under way
    uint64_t seen = 0;         // read: of these, what has come
    uint64_t mark = 0;         // flush: what it covers
    uint64_t deadline_ns = 0;  // parked: until when
  };

  // --- the connection -------------------------------------------------------------------------

  Result<> link_up() override {
    nbd_handle* handle = link_.handle();
    const auto size = static_cast<uint64_t>(nbd_.nbd_get_size(handle));
    if (geometry_.size != 0 && size != geometry_.size)
      return fail(Code::io, fmt::format("the server came back with {} bytes instead of {}; the "
                                        "size of a disk is fixed",
                                        size, geometry_.size));
    const bool first = connects_ == 0;
    can_flush_ = nbd_.nbd_can_flush(handle) == 1;
    server_fua_ = nbd_.nbd_can_fua(handle) == 1;
    can_trim_ = nbd_.nbd_can_trim(handle) == 1;
    can_map_ = nbd_.nbd_can_meta_context(handle, k_nbd_context) == 1;
    can_zero_ = nbd_.nbd_can_zero(handle) == 1;
    const int64_t largest = nbd_.nbd_get_block_size(handle, LIBNBD_SIZE_MAXIMUM);
    data_chunk_ = largest > 0 ? std::min<uint64_t>(static_cast<uint64_t>(largest), k_data_chunk)
                              : k_data_chunk;
    const int64_t smallest = nbd_.nbd_get_block_size(handle, LIBNBD_SIZE_MINIMUM);
    if (smallest > geometry_.sector_size)
      return fail(Code::invalid, fmt::format("the image wants sectors of {} bytes: say "
                                             "--sector-size {}",
                                             smallest, smallest));
    if (first) {
      geometry_.read_only = geometry_.read_only || nbd_.nbd_is_read_only(handle) == 1;
      geometry_.fua = server_fua_ || can_flush_;
      // NBD promises no more than that the range may read as anything.
      geometry_.discard = can_trim_ ? DiscardBehaviour::unspecified : DiscardBehaviour::ignored;
    }
    geometry_.size = size;
    TRY(check_geometry(geometry_));
    ++connects_;
    idle_attempts_ = 0;
    return {};
  }

  void link_moved() override {
    drain();
    if (!link_.up()) return;
    while (!parked_.empty() && link_.up()) {
      Job* job = parked_.front();
      parked_.pop_front();
      start(*job);
    }
    link_.update();
    drain();
  }

  void link_down() override { loss_.connection_lost(); }
  // A server of our own comes back without being asked for.
  bool link_wanted() override {
    return !parked_.empty() || (options_.keeper != nullptr && ++idle_attempts_ <= k_idle_attempts);
  }

  // The job waits for a connection, but not for ever.
  void park(Job& job) {
    job.deadline_ns = system_clock().now_ns() + options_.reconnect_ns;
    parked_.push_back(&job);
    link_.want();
    if (timer_ == 0) arm();
  }

  void arm() {
    const uint64_t now = system_clock().now_ns(), until = parked_.front()->deadline_ns;
    timer_ = loop_.after(until > now ? until - now : 0, [this] {
      timer_ = 0;
      give_up();
    });
  }

  void give_up() {
    const uint64_t now = system_clock().now_ns();
    while (!parked_.empty() && parked_.front()->deadline_ns <= now) {
      Job* job = parked_.front();
      parked_.pop_front();
      finish(*job, ESHUTDOWN);
    }
    if (!parked_.empty() && timer_ == 0) arm();
  }

  // --- requests -------------------------------------------------------------------------------

  // Where the data of the next piece lies.
  static char* data_of(Job& job) {
    const Request& request = *job.request;
    if (request.segments == 1) return static_cast<char*>(request.data[0].iov_base) + job.sent;
    if (job.sent == 0) {
      job.bounce.resize(request.length);
      if (request.op == Op::write) copy(job, true);
    }
    return job.bounce.data() + job.sent;
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

  // Sends the next piece. A failure to send completes the job like any other error.
  void start(Job& job) {
    if (send(job)) return;
    const int error = nbd_.nbd_get_errno();
    job.error = error != 0 ? error : EIO;
    finished_.push_back(&job);
  }

  bool send(Job& job) {
    const Request& r = *job.request;
    nbd_handle* handle = link_.handle();
    const nbd_completion_callback done = {completed, &job, nullptr};
    const uint32_t flags = (r.flags & k_fua) != 0 && server_fua_ ? LIBNBD_CMD_FLAG_FUA : 0;
    const uint64_t at = r.offset + job.sent, left = r.length - job.sent;
    switch (r.op) {
      case Op::read:
        job.chunk = std::min(left, data_chunk_);
        job.seen = 0;
        return nbd_.nbd_aio_pread_structured(handle, data_of(job), job.chunk, at,
                                             {got_data, &job, nullptr}, done, 0) >= 0;
      case Op::write:
        job.chunk = std::min(left, data_chunk_);
        return nbd_.nbd_aio_pwrite(handle, data_of(job), job.chunk, at, done, flags) >= 0;
      case Op::flush:
        return send_flush(job);
      case Op::discard:
        job.chunk = std::min(left, k_range_chunk);
        if (!can_trim_) return at_once(job);
        return nbd_.nbd_aio_trim(handle, job.chunk, at, done, flags) >= 0;
      case Op::zero:
        return send_zeroes(job, at, left, flags);
      case Op::map: {
        job.chunk = left;
        if (!can_map_) {
          r.extents->push_back({left, 0});
          return at_once(job);
        }
        const nbd_extent_callback extent = {got_extents, &job, nullptr};
        return nbd_.nbd_aio_block_status(handle, std::min(left, k_range_chunk), at, extent, done,
                                         (r.flags & k_one) != 0 ? LIBNBD_CMD_FLAG_REQ_ONE : 0) >= 0;
      }
      case Op::cache:
        break;
    }
    return false;
  }

  bool send_zeroes(Job& job, uint64_t at, uint64_t left, uint32_t flags) {
    static const std::vector<char> zeroes(k_nbd_zeroes);
    const nbd_completion_callback done = {completed, &job, nullptr};
    job.chunk = std::min(left, can_zero_ ? k_range_chunk : std::min(data_chunk_, k_nbd_zeroes));
    if (!can_zero_)
      return nbd_.nbd_aio_pwrite(link_.handle(), zeroes.data(), job.chunk, at, done, flags) >= 0;
    if ((job.request->flags & k_no_unmap) != 0) flags |= LIBNBD_CMD_FLAG_NO_HOLE;
    return nbd_.nbd_aio_zero(link_.handle(), job.chunk, at, done, flags) >= 0;
  }

  bool send_flush(Job& job) {
    job.mark = loss_.mark();
    if (!can_flush_) {  // a server without flush keeps nothing back
      loss_.flushed(job.mark);
      return at_once(job);
    }
    const nbd_completion_callback done = {completed, &job, nullptr};
    return nbd_.nbd_aio_flush(link_.handle(), done, 0) >= 0;
  }

  bool at_once(Job& job) {
    finished_.push_back(&job);
    return true;
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

  // libnbd takes an answer with less data than was asked for without a word.
  static int got_data(void* user, const void*, size_t count, uint64_t, unsigned status, int*) {
    if (status != LIBNBD_READ_ERROR) static_cast<Job*>(user)->seen += count;
    return 0;
  }

  // Called by libnbd from inside notify_*: the real completion is put off until libnbd has
  // returned, because it may submit again.
  static int completed(void* user, int* error) {
    auto& job = *static_cast<Job*>(user);
    job.error = *error;
    const bool reads = job.request->op == Op::read;
    if (reads && job.error == 0 && job.seen != job.chunk) job.error = EIO;
    if (job.error == 0) job.disk->account(job);
    job.disk->finished_.push_back(&job);
    return 1;  // retire the command
  }

  // At once, not when the request completes: the connection may be lost in between.
  void account(const Job& job) {
    const Request& request = *job.request;
    if (request.op == Op::flush || job.flushing) return loss_.flushed(job.mark);
    const bool stable = (request.flags & k_fua) != 0 && server_fua_;
    if (changes_data(request.op) && !stable) loss_.changed(request.connection);
  }

  void drain() {
    bool sent = false;
    while (!finished_.empty()) {
      Job* job = finished_.front();
      finished_.pop_front();
      sent = advance(*job) || sent;
    }
    if (sent) link_.update();
  }

  // After one piece: the next one, the flush that stands for FUA, or the end. True: sent more.
  bool advance(Job& job) {
    const Request& request = *job.request;
    if (job.error != 0) return finish(job, job.error == ENOTCONN ? ESHUTDOWN : job.error), false;
    if (request.op == Op::flush || job.flushing) return finish(job, 0), false;
    job.sent += job.chunk;
    const bool more = job.sent < request.length;
    const bool flush =
        changes_data(request.op) && !more && (request.flags & k_fua) != 0 && !server_fua_;
    if (!more && !flush) return finish(job, 0), false;
    if (!link_.up()) return finish(job, ESHUTDOWN), false;
    job.flushing = flush;
    if (flush && !send_flush(job)) return finish(job, EIO), false;
    if (!flush) start(job);
    return true;
  }

  void finish(Job& job, int error) {
    Request* request = job.request;
    if (error == 0 && request->op == Op::read && request->segments != 1) copy(job, false);
    if (error == 0 && request->op == Op::map && request->extents->empty()) error = EIO;
    jobs_.give(&job);
    request->done(*request, error);
  }

  const LibNbd& nbd_;
  Loop& loop_;
  NbdOptions options_;
  Geometry geometry_;
  bool can_map_ = false;
  bool can_zero_ = false;
  bool can_trim_ = false;
  bool can_flush_ = false;
  bool server_fua_ = false;
  uint64_t data_chunk_ = k_data_chunk;
  uint64_t connects_ = 0;
  int idle_attempts_ = 0;
  Pool<Job> jobs_;
  std::deque<Job*> finished_;
  std::deque<Job*> parked_;  // oldest first
  TimerId timer_ = 0;
  NbdLoss loss_;
  NbdLink link_;  // last: it is closed before what its completions touch
};

}  // namespace

Result<std::unique_ptr<Disk>> make_nbd_disk(const NbdOptions& options, Loop& loop) {
  TRY_ASSIGN(const LibNbd* nbd, load_libnbd());
  auto disk = std::make_unique<NbdDisk>(*nbd, loop, options);
  TRY(disk->open());
  return disk;
}

}  // namespace pv::blk
