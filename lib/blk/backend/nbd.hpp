// SPDX-License-Identifier: MIT
// A disk behind another NBD server, through libnbd. The way to qemu-storage-daemon and so to every
// format that QEMU opens. libnbd is loaded when the first such disk is opened: linking it would
// cost every short command 5 ms (it brings GnuTLS and libxml2).
#pragma once

#include <memory>
#include <string>

#include "base/loop.hpp"
#include "blk/disk.hpp"

namespace pv::blk {

struct NbdOptions {
  std::string socket;  // Unix socket, already listening
  Geometry geometry;   // what we present; size is taken from the server
};

// Connects (blocking, 20 s at most). Code::unavailable without libnbd, Code::io when the server
// does not answer as one.
Result<std::unique_ptr<Disk>> make_nbd_disk(const NbdOptions& options, Loop& loop);

}  // namespace pv::blk
