// SPDX-License-Identifier: MIT
#include "server_thread.hpp"

#include "../catch.hpp"
#include "base/socket.hpp"
#include "front/nbd/server.hpp"
#include "front/vhost/server.hpp"

namespace pv::test {

ServerThread::ServerThread(const std::string& socket, std::unique_ptr<blk::Disk> disk, Loop* loop,
                           const std::string& front)
    : own_loop_(loop ? nullptr : *Loop::create()),
      loop_(loop ? *loop : *own_loop_),
      disk_(std::move(disk)),
      thread_(loop_) {
  auto listener = listen_unix(socket);
  REQUIRE(listener);
  if (front == "vhost")
    server_ = std::make_unique<pv::vhost::Server>(loop_, std::move(*listener), *disk_, counters_,
                                                  pv::vhost::Identity{"a disk", ""});
  else
    server_ = std::make_unique<nbd::Server>(loop_, std::move(*listener), *disk_, counters_,
                                            nbd::Export{"disk", "a disk", disk_->geometry()});
  REQUIRE(server_->start());
  thread_.start();
}

ServerThread::~ServerThread() {
  on([this] { server_->hang_up(); });
  thread_.stop();
  for (int i = 0; i < 3; ++i) static_cast<void>(loop_.run_once(0));
  server_.reset();
}

}  // namespace pv::test
