// SPDX-License-Identifier: MIT
// The stacks of the matrix and the clients in front of them: requests of our own, and libnbd over a
// real socket.
#include <cerrno>

#include "../catch.hpp"
#include "base/text.hpp"
#include "blk/registry.hpp"
#include "blk/segments.hpp"
#include "fault_matrix.hpp"
#include "libnbd.hpp"

namespace pv::test::matrix {
namespace {

const LibNbd& api() {
  return libnbd();
}

class HostStation final : public Station {
 public:
  using Station::Station;
  Front front() const override { return Front::host; }
  void on(const std::function<void()>& work) override { work(); }
  void submit(Flight& flight) override {
    const Ask& ask = flight.ask;
    flight.io = std::make_unique<Io>(ask.op, ask.offset, ask.length, ask.flags);
    if (ask.op == Op::write) std::copy(ask.data.begin(), ask.data.end(), flight.io->data.begin());
    disk_->submit(flight.io->request);
  }
  bool done(Flight& flight, int) override {
    if (flight.io->completions == 0) return false;
    flight.status = flight.io->error;
    if (flight.ask.op == Op::read) flight.data = flight.io->bytes();
    return true;
  }
};

// The disk lives on the server's thread; what is to happen there is handed over.
class NbdStation final : public Station {
 public:
  explicit NbdStation(const std::vector<LayerSpec>& layers)
      : Station(layers), server_(dir_.path("s"), std::move(disk_)) {
    for (int client : {0, 1}) connect(client);
  }
  ~NbdStation() override {
    for (nbd_handle* client : clients_) api().nbd_close(client);
  }
  Front front() const override { return Front::nbd; }
  uint32_t connection(int client) const override { return numbers_[client]; }

  void on(const std::function<void()>& work) override { server_.on(work); }

  void submit(Flight& flight) override {
    Ask& ask = flight.ask;
    nbd_handle* client = clients_[ask.client];
    const uint32_t fua = (ask.flags & k_fua) != 0 ? LIBNBD_CMD_FLAG_FUA : 0;
    const auto none = NBD_NULL_COMPLETION;
    const auto extents = [](void*, const char*, uint64_t, uint32_t*, size_t, int*) { return 0; };
    const uint64_t offset = ask.offset, length = ask.length;
    switch (ask.op) {
      case Op::read:
        flight.data.assign(length, '?');
        flight.cookie = api().nbd_aio_pread(client, flight.data.data(), length, offset, none, 0);
        break;
      case Op::write:
        flight.cookie = api().nbd_aio_pwrite(client, ask.data.data(), length, offset, none, fua);
        break;
      case Op::flush:
        flight.cookie = api().nbd_aio_flush(client, none, 0);
        break;
      case Op::discard:
        flight.cookie = api().nbd_aio_trim(client, length, offset, none, fua);
        break;
      case Op::zero:
        flight.cookie = api().nbd_aio_zero(client, length, offset, none, fua);
        break;
      case Op::map:
        flight.cookie = api().nbd_aio_block_status(client, length, offset,
                                                   {extents, nullptr, nullptr}, none, 0);
        break;
      case Op::cache:
        flight.cookie = api().nbd_aio_cache(client, length, offset, none, 0);
        break;
    }
    REQUIRE(flight.cookie > 0);
  }

  bool done(Flight& flight, int patience_ms) override {
    nbd_handle* client = clients_[flight.ask.client];
    const auto deadline = Deadline::in_ms(static_cast<uint64_t>(patience_ms));
    const auto cookie = static_cast<uint64_t>(flight.cookie);
    while (true) {
      static_cast<void>(api().nbd_poll(client, deadline.left_ms()));
      if (api().nbd_aio_is_dead(client) == 1 || api().nbd_aio_is_closed(client) == 1) {
        flight.status = ENOTCONN;
        api().nbd_close(client);
        connect(flight.ask.client);
        return true;
      }
      const int done = api().nbd_aio_command_completed(client, cookie);
      if (done != 0) flight.status = done == 1 ? 0 : api().nbd_get_errno();
      if (done != 0 || deadline.passed()) return done != 0;
    }
  }

 private:
  void connect(int number) {
    nbd_handle*& client = clients_[number];
    client = api().nbd_create();
    api().nbd_set_strict_mode(client, 0);
    api().nbd_add_meta_context(client, "base:allocation");
    REQUIRE(api().nbd_connect_unix(client, dir_.path("s").c_str()) == 0);
    numbers_[number] = ++last_number_;
  }

  TempDir dir_;
  ServerThread server_;
  nbd_handle* clients_[2] = {};
  uint32_t numbers_[2] = {}, last_number_ = 0;
};

}  // namespace

Medium::Medium() : bytes_(k_size, '\0') {
  geometry_.size = k_size;
}

void Medium::submit(Request& request) {
  {
    const std::lock_guard guard(mutex_);
    carry_out(request);
  }
  request.done(request, 0);
}

void Medium::carry_out(const Request& request) {
  if (request.op == Op::read) scatter(request, 0, bytes_.data() + request.offset, request.length);
  if (request.op == Op::write) gather(request, 0, bytes_.data() + request.offset, request.length);
  if (request.op == Op::zero || request.op == Op::discard)
    std::fill_n(bytes_.data() + request.offset, request.length, '\0');
  if (request.op == Op::map) request.extents->push_back({request.length, 0});
  if (request.op == Op::flush) ++flushes_;
  if ((request.flags & k_fua) != 0) fua_bytes_ += request.length;
}

void Medium::fill(Rng& rng) {
  const std::lock_guard guard(mutex_);
  for (size_t at = 0; at < bytes_.size(); at += sizeof(uint64_t)) {
    const uint64_t word = rng.next();
    std::memcpy(bytes_.data() + at, &word, sizeof word);
  }
}

std::string Medium::bytes() const {
  const std::lock_guard guard(mutex_);
  return bytes_;
}

uint64_t Medium::flushes() const {
  const std::lock_guard guard(mutex_);
  return flushes_;
}

uint64_t Medium::fua_bytes() const {
  const std::lock_guard guard(mutex_);
  return fua_bytes_;
}

Station::Station(const std::vector<LayerSpec>& layers) {
  auto bottom = std::make_unique<Medium>();
  medium_ = bottom.get();
  auto built = build_stack(std::move(bottom), layers, {clock_, timers_, nullptr, 0}, true);
  REQUIRE(built);
  disk_ = std::move(*built);
  top_ = disk_.get();
}

Station::~Station() = default;

// Numbers in an initializer list are signed; what comes from a command is not.
Result<json> Station::call(const json& request) {
  Result<json> reply = json();
  on([&] { reply = top_->control(*parse_json(to_line(request))); });
  return reply;
}

void Station::advance_ns(uint64_t ns) {
  on([&] { timers_.advance_ns(ns); });
  on([] {});  // the answers that came of it are on their way now
}

int Station::settle() {
  Io flush(Op::flush, 0, 0, k_internal);
  on([&] { top_->submit(flush.request); });
  return flush.completions == 1 ? flush.error : -1;
}

std::unique_ptr<Station> make_station(Front front, bool cached) {
  std::vector<LayerSpec> layers = {{"fault", {}}};
  if (cached) layers.push_back({"cache", {{"size", "64M"}}});
  if (front == Front::host) return std::make_unique<HostStation>(layers);
  if (front == Front::vhost) return make_vhost_station(layers);
  return std::make_unique<NbdStation>(layers);
}

}  // namespace pv::test::matrix
