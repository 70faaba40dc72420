// SPDX-License-Identifier: MIT
#include "vhost_disk.hpp"

#include <cerrno>
#include <deque>
#include <map>
#include <optional>

#include "../catch.hpp"
#include "../vhost/driver/blk.hpp"
#include "blk/segments.hpp"

namespace pv::test {
namespace {

namespace v = vhost;
using blk::Op;
using blk::Request;

constexpr uint16_t k_queue_size = 256;

v::BlkRequest translate(const Request& request) {
  const bool zero = request.op == Op::zero;
  v::BlkRequest out;
  switch (request.op) {
    case Op::read:
    case Op::write:
      out.type = request.op == Op::read ? v::blk_type::in : v::blk_type::out;
      out.sector = request.offset / v::k_sector;
      for (int i = 0; i < request.segments; ++i) {
        const iovec& piece = request.data[i];
        if (piece.iov_len == 0) continue;
        (request.op == Op::read ? out.in : out.split)
            .push_back(static_cast<uint32_t>(piece.iov_len));
        if (request.op == Op::write)
          out.out.append(static_cast<const char*>(piece.iov_base), piece.iov_len);
      }
      break;
    case Op::zero:
    case Op::discard: {
      const v::BlkRange range{request.offset / v::k_sector,
                              static_cast<uint32_t>(request.length / v::k_sector),
                              zero && (request.flags & blk::k_no_unmap) == 0 ? v::k_unmap : 0};
      out.type = zero ? v::blk_type::write_zeroes : v::blk_type::discard;
      out.out = v::bytes_of(range);
      break;
    }
    case Op::flush:
    case Op::map:
    case Op::cache:
      out.type = v::blk_type::flush;
      break;
  }
  return out;
}

class VhostDisk final : public blk::Disk {
 public:
  VhostDisk(const std::string& socket, const blk::Geometry& served, Loop& loop)
      : geometry_(served), loop_(loop) {
    v::Options options;
    options.queue_size = k_queue_size;
    auto driver = v::Driver::make(options);
    REQUIRE(driver);
    driver_ = std::move(*driver);
    const auto attached = driver_->attach(socket);
    INFO((attached ? "" : attached.error().message));
    REQUIRE(attached);
    blk_.emplace(*driver_);
    REQUIRE(loop_.watch(queue().call_fd(), EPOLLIN, [this](uint32_t) { called(); }));
    queue().want_call(true);
  }
  ~VhostDisk() override {
    loop_.unwatch(queue().call_fd());
    driver_->disconnect();
  }

  const blk::Geometry& geometry() const override { return geometry_; }

  void submit(Request& request) override {
    if (request.op == Op::map || request.op == Op::cache) return request.done(request, EOPNOTSUPP);
    if (request.op == Op::discard && geometry_.discard == blk::DiscardBehaviour::ignored)
      return request.done(request, 0);  // not offered
    waiting_.push_back({&request, request.op == Op::discard && (request.flags & blk::k_fua) != 0});
    pump();
  }

 private:
  struct Flight {
    Request* request;
    bool flush_after;
    bool flushes = false;  // that flush is under way
  };

  v::Queue& queue() { return blk_->queue(); }

  void pump() {
    while (!waiting_.empty() && send(waiting_.front())) waiting_.pop_front();
  }

  bool send(const Flight& flight) {
    const Request& request = *flight.request;
    if (queue().free_descriptors() < static_cast<size_t>(request.segments) + 2) return false;
    const bool changes = request.op == Op::write || request.op == Op::zero;
    const bool fua = changes && (request.flags & blk::k_fua) != 0;
    if (changes && fua != fua_) {
      if (!flights_.empty()) return false;  // what was sent before keeps the mode it was sent in
      fua_ = fua;
      const std::string cache(1, fua ? '\0' : '\1');
      REQUIRE(driver_->set_config(offsetof(v::BlkConfig, wce), cache));
    }
    const auto head =
        blk_->submit(flight.flushes ? v::BlkRequest{v::blk_type::flush} : translate(request));
    INFO((head ? "" : head.error().message));
    REQUIRE(head);
    flights_[*head] = flight;
    return true;
  }

  void called() {
    queue().wait_call(Deadline::in_ms(0));  // empties it
    do {
      while (queue().has_used()) {
        auto answer = blk_->next();
        REQUIRE(answer);
        ended(answer->first, answer->second);
      }
    } while (queue().want_call(true));
    pump();
  }

  void ended(uint16_t head, const v::BlkReply& reply) {
    const auto found = flights_.find(head);
    REQUIRE(found != flights_.end());
    const Flight flight = found->second;
    flights_.erase(found);
    Request& request = *flight.request;
    const int error = v::errno_of(reply.status);
    if (error == 0 && flight.flush_after) return waiting_.push_back({&request, false, true});
    if (request.op == Op::read && error == 0)
      blk::scatter(request, 0, reply.data.data(), reply.data.size());
    request.done(request, error);
  }

  blk::Geometry geometry_;
  Loop& loop_;
  std::unique_ptr<v::Driver> driver_;
  std::optional<v::Blk> blk_;
  std::deque<Flight> waiting_;  // for room in the ring, or for the write cache's other mode
  std::map<uint16_t, Flight> flights_;
  bool fua_ = false;
};

}  // namespace

std::unique_ptr<blk::Disk> make_vhost_disk(const std::string& socket, const blk::Geometry& served,
                                           Loop& loop) {
  return std::make_unique<VhostDisk>(socket, served, loop);
}

bool vhost_carries(const Request& request) {
  constexpr uint64_t k_max_data = 8 << 20;  // what the driver has memory for
  switch (request.op) {
    case Op::flush:
      return true;
    case Op::read:
    case Op::write:
      return request.offset % v::k_sector == 0 && request.length <= k_max_data;
    case Op::zero:
    case Op::discard:
      return request.offset % v::k_sector == 0 && request.length % v::k_sector == 0 &&
             request.length / v::k_sector <= UINT32_MAX;
    case Op::map:
    case Op::cache:
      return false;
  }
  return false;
}

}  // namespace pv::test
