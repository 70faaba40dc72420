// SPDX-License-Identifier: MIT
// The NBD front end of one disk: a listening Unix socket and its connections, all on one loop.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/loop.hpp"
#include "blk/counters.hpp"
#include "blk/disk.hpp"
#include "front/front.hpp"
#include "front/nbd/connection.hpp"

namespace pv::nbd {

class Server final : public front::Front {
 public:
  // Serves `disk` on a socket that already listens. Everything passed in outlives the server.
  Server(Loop& loop, Fd listener, blk::Disk& disk, blk::Counters& counters, Export exported);
  ~Server() override;

  Result<> start() override;
  void stop() override;  // new requests are answered ESHUTDOWN
  void pause() override;
  void resume() override;
  void freeze() override;
  void thaw() override;
  void hang_up() override;
  void resized(pid_t peer) override;
  size_t connections() const override { return connections_.size(); }

 private:
  static constexpr size_t k_max_connections = 256;
  void accept_all();
  void let_in(bool on);
  void rest();

  Export export_;
  Fd listener_;
  Shared shared_;
  std::vector<std::unique_ptr<Connection>> connections_;
  uint32_t last_number_ = 0;
};

}  // namespace pv::nbd
