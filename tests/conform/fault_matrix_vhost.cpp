// SPDX-License-Identifier: MIT
// The matrix' third way into a stack: a driver in front of our vhost-user server. Its clients are
// the queues of one connection; FUA is the write cache turned off.
#include <cerrno>
#include <optional>
#include <poll.h>

#include "../vhost/driver/blk.hpp"
#include "fault_matrix.hpp"

namespace pv::test::matrix {
namespace {

namespace v = test::vhost;

class VhostStation final : public Station {
 public:
  explicit VhostStation(const std::vector<LayerSpec>& layers)
      : Station(layers), server_(dir_.path("s"), std::move(disk_), nullptr, "vhost") {
    v::Options options;
    options.queues = 2;
    auto driver = v::Driver::make(options);
    REQUIRE(driver);
    driver_ = std::move(*driver);
    connect();
  }
  Front front() const override { return Front::vhost; }
  uint32_t connection(int) const override { return number_; }
  void on(const std::function<void()>& work) override { server_.on(work); }

  void submit(Flight& flight) override {
    const Ask& ask = flight.ask;
    if (ask.changes() && ask.op != Op::discard) use_fua((ask.flags & k_fua) != 0);
    const v::BlkRange range{ask.offset / v::k_sector,
                            static_cast<uint32_t>(ask.length / v::k_sector),
                            ask.op == Op::zero ? v::k_unmap : 0};
    v::BlkRequest request;
    request.sector = range.sector;
    switch (ask.op) {
      case Op::read:
        request.in = {static_cast<uint32_t>(ask.length)};
        break;
      case Op::write:
        request.type = v::blk_type::out;
        request.out = ask.data;
        break;
      case Op::flush:
        request.type = v::blk_type::flush;
        break;
      case Op::discard:
      case Op::zero:
        request.type = ask.op == Op::zero ? v::blk_type::write_zeroes : v::blk_type::discard;
        request.sector = 0;
        request.out = v::bytes_of(range);
        break;
      case Op::map:
      case Op::cache:
        FAIL("no request of a virtio disk");
    }
    auto head = clients_[ask.client]->submit(request);
    REQUIRE(head);
    flight.cookie = *head;
  }

  bool done(Flight& flight, int patience_ms) override {
    v::Blk& blk = *clients_[flight.ask.client];
    auto& answered = answered_[flight.ask.client];
    const auto head = static_cast<uint16_t>(flight.cookie);
    const auto deadline = Deadline::in_ms(static_cast<uint64_t>(patience_ms));
    while (true) {
      while (blk.queue().has_used()) {
        auto next = blk.next();
        REQUIRE(next);
        answered[next->first] = std::move(next->second);
      }
      if (const auto found = answered.find(head); found != answered.end()) {
        flight.status = v::errno_of(found->second.status);
        flight.data = std::move(found->second.data);
        answered.erase(found);
        return true;
      }
      pollfd channel{driver_->channel().fd(), POLLIN, 0};
      if (poll(&channel, 1, 0) == 1) {  // it says nothing by itself: it has hung up
        flight.status = ENOTCONN;
        connect();
        return true;
      }
      if (deadline.passed()) return false;
      if (!blk.queue().want_call(true)) blk.queue().wait_call(Deadline::in_ms(1));
    }
  }

 private:
  void connect() {
    for (unsigned i = 0; i < 2; ++i) {
      driver_->queue(i).reset();
      clients_[i].emplace(*driver_, i);
      answered_[i].clear();
    }
    const auto attached = driver_->attach(dir_.path("s"));
    INFO((attached ? "" : attached.error().message));
    REQUIRE(attached);
    ++number_;
    fua_ = false;
  }

  void use_fua(bool on) {
    if (std::exchange(fua_, on) == on) return;
    REQUIRE(driver_->set_config(offsetof(v::BlkConfig, wce), std::string(1, on ? '\0' : '\1')));
  }

  TempDir dir_;
  ServerThread server_;
  std::unique_ptr<v::Driver> driver_;
  std::optional<v::Blk> clients_[2];
  std::map<uint16_t, v::BlkReply> answered_[2];
  uint32_t number_ = 0;
  bool fua_ = false;
};

}  // namespace

std::unique_ptr<Station> make_vhost_station(const std::vector<LayerSpec>& layers) {
  return std::make_unique<VhostStation>(layers);
}

}  // namespace pv::test::matrix
