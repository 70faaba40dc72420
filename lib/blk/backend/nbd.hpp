// SPDX-License-Identifier: MIT
// A disk behind another NBD server, through libnbd. The way to qemu-storage-daemon and so to every
// format that QEMU opens. libnbd is loaded when the first such disk is opened: linking it would
// cost every short command 5 ms (it brings GnuTLS and libxml2).
//
// When the server goes, what is in flight fails with ESHUTDOWN, a new connection is tried at once
// and then, with growing pauses, for as long as requests wait for one. If writes had been
// acknowledged since the last flush, the next flush fails with EIO: nobody may take them for safe.
#pragma once

#include <memory>
#include <string>

#include "base/clock.hpp"
#include "base/loop.hpp"
#include "blk/disk.hpp"

namespace pv::blk {

// Whoever runs the server behind a disk, where that is our own business. Outlives the disk.
class NbdKeeper {
 public:
  virtual ~NbdKeeper() = default;
  // Before a connection is made anew: starts the server again where it has ended.
  virtual Result<> revive() = 0;
  // With no connection open: the image gets another size. The server runs again afterwards, also
  // when that failed.
  virtual Result<> resize(uint64_t size) = 0;
  virtual void inspect(json& backend) const = 0;
};

struct NbdOptions {
  std::string socket;          // Unix socket; "": TCP
  Geometry geometry;           // what we present; size is taken from the server
  std::string host{}, port{};  // TCP
  std::string export_name{};
  uint64_t reconnect_ns = 5 * k_ns_per_s;  // how long a request waits for a server that is gone
  NbdKeeper* keeper = nullptr;
};

// Connects (blocking, 20 s at most). Code::unavailable without libnbd, Code::io when the server
// does not answer as one, Code::invalid when it wants larger sectors than the geometry has.
Result<std::unique_ptr<Disk>> make_nbd_disk(const NbdOptions& options, Loop& loop);

}  // namespace pv::blk
