// SPDX-License-Identifier: MIT
// QEMU's own vhost-user-blk server, qemu-storage-daemon, over a raw file: what the driver is proved
// against, and what a server of ours is compared with. Killed and gone when it goes out of scope.
#pragma once

#include <cstdint>
#include <string>

#include "base/process.hpp"
#include "base/result.hpp"

namespace pv::test::vhost {

struct DaemonOptions {
  std::string image;   // a raw file
  std::string socket;  // where it listens
  unsigned queues = 1;
  bool writable = true;
};

class StorageDaemon {
 public:
  // Returns once it listens.
  static Result<StorageDaemon> start(const DaemonOptions& options);

  pid_t pid() const { return process_.pid(); }
  const std::string& socket() const { return options_.socket; }
  // SIGKILL, and another one on the same image and socket.
  Result<> kill();
  Result<> restart();

 private:
  DaemonOptions options_;
  Child process_;
};

}  // namespace pv::test::vhost
