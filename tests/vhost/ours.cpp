// SPDX-License-Identifier: MIT
#include "ours.hpp"

#include <fcntl.h>
#include <filesystem>
#include <sys/socket.h>
#include <unistd.h>

#include "../conform/patience.hpp"
#include "base/socket.hpp"
#include "base/text.hpp"
#include "blk/backend/file.hpp"
#include "blk/backend/memory.hpp"
#include "blk/registry.hpp"
#include "front/vhost/config.hpp"

namespace pv::test::vhost {

OurServer::OurServer(const Served& served)
    : serial_(served.serial),
      loop_(must(Loop::create())),
      greeted_(served.greeted),
      thread_(std::make_unique<LoopThread>(*loop_)) {
  make_stack(served);
  listen();
  nbd_ = std::make_unique<nbd::Server>(*loop_, must(listen_unix(nbd_socket())), *disk_, counters_,
                                       nbd::Export{"disk", "a disk", disk_->geometry()});
  must(nbd_->start());
  thread_->start();
}

OurServer::~OurServer() {
  // What a rule holds back must come back before those who wait for it go.
  on([&] {
    static_cast<void>(disk_->control({{"op", "fault.clear"}}));
    server_->hang_up();
  });
  thread_->stop();
  const Deadline deadline = Deadline::in_ms(20'000);
  while (counters_.in_flight() != 0 && !deadline.passed()) static_cast<void>(loop_->run_once(10));
  for (int i = 0; i < 3; ++i) static_cast<void>(loop_->run_once(0));
  CHECK(counters_.in_flight() == 0);
  nbd_.reset();
  greeter_.reset();
  server_.reset();
  thread_.reset();
}

void OurServer::make_stack(const Served& served) {
  blk::Geometry geometry;
  geometry.size = served.size;
  geometry.sector_size = geometry.physical_sector_size = served.sector_size;
  geometry.discard_granularity = served.sector_size;
  geometry.discard = served.discard;
  geometry.read_only = served.read_only;
  std::unique_ptr<blk::Disk> bottom;
  if (served.file) {
    Fd fd(open(image().c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    REQUIRE(ftruncate(fd.get(), static_cast<off_t>(served.size)) == 0);
    io_ = must(blk::AsyncIo::create(*loop_));
    bottom = blk::make_file_disk(std::move(fd), geometry, *io_);
  } else {
    bottom = must(blk::make_memory_disk(geometry));
  }
  auto failing = std::make_unique<FailingDisk>(std::move(bottom));
  failing_ = failing.get();
  std::vector<blk::LayerSpec> layers;
  for (const std::string& text : served.layers) layers.push_back(must(blk::parse_layer(text)));
  opener_ = std::make_unique<FileOpener>(*loop_, geometry);
  const blk::Env env{system_clock(), *loop_, loop_.get(), 0, opener_.get()};
  disk_ = must(blk::build_stack(std::move(failing), layers, env, /*audit=*/true));
}

void OurServer::listen() {
  server_ = std::make_unique<pv::vhost::Server>(*loop_, entrance(), *disk_, counters_,
                                                pv::vhost::Identity{serial_, "vm"}, greeted_);
  must(server_->start());
}

// Where the server's clients come from: a socket that listens, or the greeter's door.
Fd OurServer::entrance() {
  if (!greeted_) {
    unlink(socket().c_str());
    return must(listen_unix(socket()));
  }
  int doors[2] = {-1, -1};
  REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, doors) == 0);
  door_.reset(doors[0]);
  if (!greeter_) {
    greeter_ = std::make_unique<pv::vhost::Greeter>(
        *loop_, must(listen_unix(socket())),
        [this] { return pv::vhost::features_of(disk_->geometry()); },
        [this](const pv::vhost::Handover& handover) {
          static_cast<void>(pv::vhost::send_handover(door_.get(), handover));
        });
    must(greeter_->start());
  }
  return Fd(doors[1]);
}

Result<json> OurServer::control(const json& request) {
  Result<json> reply = json();
  // Numbers in an initializer list are signed; what comes from a command is not.
  on([&] { reply = disk_->control(*parse_json(to_line(request))); });
  return reply;
}

void OurServer::add_rule(const char* rule) {
  must(control({{"op", "fault.add"}, {"rule", json::parse(rule)}}));
}

void OurServer::clear_rules() {
  must(control({{"op", "fault.clear"}}));
}

json OurServer::counters() {
  json now;
  on([&] {
    now = counters_.to_json();
    json told;
    disk_->inspect(told);
    now["out_of_range"] = told.value("out_of_range", uint64_t{0});
  });
  return now;
}

json OurServer::backend() {
  json told;
  on([&] { disk_->inspect(told); });
  return told["backend"];
}

size_t OurServer::connections() {
  size_t count = 0;
  on([&] { count = server_->connections(); });
  return count;
}

void OurServer::resize(uint64_t size) {
  on([&] {
    server_->pause();
    must(disk_->resize(size));
    server_->resume();
    server_->resized(0);
  });
}

std::string OurServer::content(uint64_t offset, uint64_t length) {
  Io io(blk::Op::read, offset, length, blk::k_internal);
  on([&] { disk_->submit(io.request); });
  const Deadline deadline = Deadline::in_ms(k_patience_ms);
  const auto done = [&] {
    bool is = false;
    on([&] { is = io.completions != 0; });
    return is;
  };
  while (!done()) {
    if (deadline.passed()) lose_patience();
    sleep_ns(k_ns_per_ms);
  }
  REQUIRE(io.error == 0);
  return io.bytes();
}

void OurServer::replace() {
  on([&] {
    REQUIRE(counters_.in_flight() == 0);
    server_.reset();
    listen();
  });
}

Rig::Rig(const Served& served, const Options& options)
    : ours(served), driver(must(Driver::make(options))), blk(std::in_place, *driver) {
  must(driver->attach(ours.socket()));
}

void Rig::attach_anew() {
  for (unsigned index = 0; index < driver->queues(); ++index) driver->queue(index).reset();
  blk.emplace(*driver);
  must(driver->attach(ours.socket()));
}

void Rig::check_well() {
  const std::string bytes = random_bytes(rng, 512);
  REQUIRE(write(3, bytes).status == k_ok);
  REQUIRE(read(3, 512).data == bytes);
}

Changes changes(const json& before, const json& after) {
  Changes changed;
  const json flat_before = before.flatten(), flat_after = after.flatten();
  for (const auto& [at, value] : flat_after.items())
    if (flat_before.value(at, json()) != value)
      changed[at.substr(1)] = value.get<int64_t>() - flat_before.value(at, int64_t{0});
  return changed;
}

size_t open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd"), none;
  return static_cast<size_t>(std::distance(all, none)) - 1;  // that of the look itself
}

}  // namespace pv::test::vhost
