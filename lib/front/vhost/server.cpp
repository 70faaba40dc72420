// SPDX-License-Identifier: MIT
#include "front/vhost/server.hpp"

#include <algorithm>
#include <csignal>

#include "base/socket.hpp"
#include "blk/mirror/borrowed.hpp"
#include "front/vhost/device.hpp"
#include "front/vhost/session.hpp"

namespace pv::vhost {

struct Server::Shared {
  Ground ground;
  Fd listener;
  std::unique_ptr<Device> device;  // the client that is served
  std::vector<std::unique_ptr<Device>> leaving;
  uint32_t last_number = 0;
  bool by_door = false;  // `listener` is where clients are handed over
  bool sweep_posted = false;
  std::shared_ptr<bool> alive = std::make_shared<bool>(true);

  Shared(Ground under, Fd socket) : ground(std::move(under)), listener(std::move(socket)) {}
  ~Shared() { *alive = false; }

  // From the process that has greeted them.
  void take_over_all() {
    while (!ground.frozen) {
      auto handover = receive_handover(listener.get());
      if (!handover) return close_door();
      if (!handover->socket) return;
      if (device && !device->is_gone()) continue;
      add(std::move(handover->socket));
      if (!device->take_over(std::move(handover->said))) device.reset();
    }
  }

  void close_door() {
    ground.loop.unwatch(listener.get());
    listener.reset();
  }

  void add(Fd socket) {
    sweep();
    device = std::make_unique<Device>(ground, std::move(socket), ++last_number,
                                      [this] { sweep_later(); });
  }

  void accept_all() {
    while (!ground.frozen) {
      Fd socket = accept_unix(listener.get());
      if (!socket) return;
      if (device && !device->is_gone()) continue;  // one at a time; hung up on
      add(std::move(socket));
      if (!device->start()) device.reset();
    }
  }

  // Not from inside a device's own handler.
  void sweep_later() {
    if (std::exchange(sweep_posted, true)) return;
    ground.loop.post([this, here = alive] {
      if (!*here) return;
      sweep_posted = false;
      sweep();
    });
  }

  // A client that is gone leaves when its last request has come back. Until then the next one's do
  // not begin: they may be the same requests, of a guest that found them unanswered.
  void sweep() {
    if (device && device->is_gone()) leaving.push_back(std::move(device));
    leaving.erase(std::remove_if(leaving.begin(), leaving.end(),
                                 [](const auto& one) { return one->in_flight() == 0; }),
                  leaving.end());
    const bool was_busy = std::exchange(ground.busy, !leaving.empty());
    if (was_busy && !ground.busy && device) device->run_all();
  }

  void let_in(bool on) {
    if (listener) ground.loop.change(listener.get(), on ? uint32_t{EPOLLIN} : 0U);
  }
};

Server::Server(Loop& loop, Fd listener, blk::Disk& disk, blk::Counters& counters, Identity identity,
               bool by_door)
    : shared_(std::make_unique<Shared>(Ground{loop, disk, counters, std::move(identity)},
                                       std::move(listener))) {
  shared_->by_door = by_door;
  signal(SIGPIPE, SIG_IGN);  // what a client wants to be called by may be any descriptor
  // Reads are copied from where the bytes lie, in a file that may be cut. Before any memory of a
  // client's is guarded: that handler asks this one.
  blk::catch_bus_errors();
}

Server::~Server() {
  if (shared_->listener) shared_->ground.loop.unwatch(shared_->listener.get());
}

Result<> Server::start() {
  return shared_->ground.loop.watch(shared_->listener.get(), EPOLLIN, [this](uint32_t) {
    shared_->by_door ? shared_->take_over_all() : shared_->accept_all();
  });
}

void Server::stop() {
  shared_->ground.stopping = true;
  if (shared_->listener) shared_->ground.loop.unwatch(shared_->listener.get());
  shared_->listener.reset();
}

void Server::pause() {
  shared_->ground.paused = true;
}

void Server::resume() {
  shared_->ground.paused = false;
  if (shared_->device) shared_->device->run_all();
}

void Server::freeze() {
  shared_->ground.frozen = true;
  pause();
  shared_->let_in(false);
}

void Server::thaw() {
  shared_->ground.frozen = false;
  shared_->let_in(true);
  if (shared_->device) shared_->device->thaw();
  resume();
}

void Server::hang_up() {
  if (shared_->device) shared_->device->hang_up();
}

// A client that is told of changes need not come again for it.
void Server::resized(pid_t) {
  if (shared_->device) shared_->device->config_changed();
}

size_t Server::connections() const {
  return shared_->device && !shared_->device->is_gone() ? 1 : 0;
}

}  // namespace pv::vhost
