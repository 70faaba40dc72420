// SPDX-License-Identifier: MIT
// A qemu-storage-daemon that opens one image in a format of QEMU's and exports it over NBD to us
// alone. Child of the disk server: it ends with it. When it ends before, it is started again, but
// not for ever.
#pragma once

#include <deque>
#include <string>

#include "base/json_fwd.hpp"
#include "base/process.hpp"
#include "base/result.hpp"
#include "blk/backend/nbd.hpp"

namespace pv::serve {

struct DaemonOptions {
  std::string blockdev;  // one --blockdev object, its node called k_node_name
  std::string key_file;  // becomes the secret k_secret_id; ""
  bool read_only = false;
  std::string stem;  // the socket and the log are called stem.sock and stem.log
};

class StorageDaemon final : public blk::NbdKeeper {
 public:
  explicit StorageDaemon(DaemonOptions options) : options_(std::move(options)) {}

  Result<> start();
  Result<> revive() override;
  // Ends the daemon in order, runs qemu-img resize, starts the daemon again. Code::unsupported with
  // QEMU's reason for formats that cannot.
  Result<> resize(uint64_t size) override;
  void inspect(json& backend) const override;

  // Formats such as qcow2 keep metadata in memory until they are closed: it is asked to end, and
  // killed only when it does not; whether it did.
  void ask_to_end() { process_.kill(SIGTERM); }
  bool wait_for_end(const Deadline& deadline);
  // Whether it ends within `ms`.
  bool ended(uint64_t ms);

  // Connect at once: it listens already, and answers when the image is open.
  std::string socket() const { return options_.stem + ".sock"; }
  // The last line that it wrote on stderr.
  std::string complaint() const;

 private:
  DaemonOptions options_;
  Child process_;
  bool fresh_ = false;  // started, and nobody has connected yet
  uint64_t restarts_ = 0;
  std::deque<uint64_t> recent_ns_;  // when the last of them were
};

}  // namespace pv::serve
