// SPDX-License-Identifier: MIT
#include "front/nbd/server.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "base/socket.hpp"

namespace pv::nbd {

Server::Server(Loop& loop, Fd listener, blk::Disk& disk, blk::Counters& counters, Export exported)
    : export_(std::move(exported)), listener_(std::move(listener)), shared_{loop,    disk, counters,
                                                                            export_, {},   {}} {}

Server::~Server() {
  if (listener_) shared_.loop.unwatch(listener_.get());
}

Result<> Server::start() {
  signal(SIGPIPE, SIG_IGN);  // splice(2) to a socket knows no MSG_NOSIGNAL
  return shared_.loop.watch(listener_.get(), EPOLLIN, [this](uint32_t) { accept_all(); });
}

void Server::stop() {
  shared_.stopping = true;
  if (listener_) shared_.loop.unwatch(listener_.get());
  listener_.reset();
}

void Server::pause() {
  shared_.paused = true;
}

void Server::resume() {
  shared_.paused = false;
  for (const auto& connection : connections_) connection->resume();
}

void Server::freeze() {
  shared_.frozen = true;
  pause();
  let_in(false);
}

void Server::thaw() {
  shared_.frozen = false;
  let_in(true);
  resume();
}

void Server::hang_up() {
  std::vector<Connection*> all;
  for (const auto& connection : connections_) all.push_back(connection.get());
  for (Connection* connection : all) connection->hang_up();
}

// The listener is gone once the server has been told to stop.
void Server::let_in(bool on) {
  const uint32_t events = on && !shared_.frozen ? uint32_t{EPOLLIN} : 0U;
  if (listener_) shared_.loop.change(listener_.get(), events);
}

void Server::resized(pid_t peer) {
  if (peer == 0) return;
  std::vector<Connection*> ending;
  for (const auto& connection : connections_)
    if (connection->peer() == peer) ending.push_back(connection.get());
  for (Connection* connection : ending) connection->close();
}

// Out of descriptors: the waiting client would wake us for ever, so it waits a moment.
void Server::rest() {
  constexpr uint64_t k_pause_ns = 50 * k_ns_per_ms;
  let_in(false);
  shared_.loop.after(k_pause_ns, [this] { let_in(true); });
}

void Server::accept_all() {
  while (true) {
    if (shared_.frozen) return;
    Fd socket = accept_unix(listener_.get());
    if (!socket && (errno == EMFILE || errno == ENFILE)) return rest();
    if (!socket) return;
    if (connections_.size() >= k_max_connections) continue;  // closed at once: the bound is ours
    const auto forget = [this](Connection* ended) {
      const auto same = [&](const auto& owned) { return owned.get() == ended; };
      const auto found = std::find_if(connections_.begin(), connections_.end(), same);
      if (found == connections_.end()) return;
      // Not from inside its own handler: the loop lets go of it first.
      std::shared_ptr<Connection> last(found->release());
      connections_.erase(found);
      shared_.loop.post([last] {});
    };
    export_.geometry = shared_.disk.geometry();
    connections_.push_back(
        std::make_unique<Connection>(shared_, std::move(socket), ++last_number_, forget));
    Connection& added = *connections_.back();
    if (!added.start()) forget(&added);
  }
}

}  // namespace pv::nbd
