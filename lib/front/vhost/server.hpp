// SPDX-License-Identifier: MIT
// The vhost-user-blk front end of one disk: a listening Unix socket and its one client, a VM whose
// requests are taken from rings in its own memory. On the loop's thread.
#pragma once

#include <memory>
#include <string>

#include "base/fd.hpp"
#include "base/loop.hpp"
#include "blk/counters.hpp"
#include "blk/disk.hpp"
#include "front/front.hpp"

namespace pv::vhost {

class Device;

// What the guest is told of the disk besides its geometry.
struct Identity {
  std::string serial;  // at most 20 bytes
  std::string host;    // who the VM is, for reservations; "" for nobody in particular
};

class Server final : public front::Front {
 public:
  // Serves `disk` on a socket that already listens; with `by_door`, on one through which somebody
  // hands over clients (handover.hpp). Everything passed in outlives the server.
  Server(Loop& loop, Fd listener, blk::Disk& disk, blk::Counters& counters, Identity identity,
         bool by_door = false);
  ~Server() override;

  Result<> start() override;
  void stop() override;
  void pause() override;
  void resume() override;
  void freeze() override;
  void thaw() override;
  void hang_up() override;
  void resized(pid_t peer) override;
  size_t connections() const override;

 private:
  struct Shared;
  std::unique_ptr<Shared> shared_;
};

}  // namespace pv::vhost
