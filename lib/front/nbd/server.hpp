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
#include "front/nbd/connection.hpp"

namespace pv::nbd {

class Server {
 public:
  // Serves `disk` on a socket that already listens. Everything passed in outlives the server.
  Server(Loop& loop, Fd listener, blk::Disk& disk, blk::Counters& counters, Export exported);
  ~Server();
  Result<> start();

  // From now on new requests are answered ESHUTDOWN and nobody is let in.
  void stop();
  // Lets no further request in until resume(); those in flight go on.
  void pause();
  void resume();
  // Takes nothing more from anybody and answers nobody, until thaw(); nobody is let in.
  void freeze();
  void thaw();
  // Ends every connection, with what was still to be said to it.
  void hang_up();
  // Ends the connections that process `peer` has made, in order: what is in flight is answered.
  void disconnect(pid_t peer);
  size_t connections() const { return connections_.size(); }

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
