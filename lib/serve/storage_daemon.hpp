// SPDX-License-Identifier: MIT
// A qemu-storage-daemon that opens one image in a format of QEMU's and exports it over NBD to us
// alone. Child of the disk server: it ends with it.
#pragma once

#include <string>

#include "base/process.hpp"
#include "base/result.hpp"

namespace pv::serve {

struct StorageDaemon {
  Child process;
  std::string log;     // what it wrote on stderr
  std::string socket;  // connect at once: it listens already, and answers when the image is open
};

// Its socket and its log are called `stem`.sock and `stem`.log.
Result<StorageDaemon> start_storage_daemon(const std::string& image, const std::string& format,
                                           bool read_only, const std::string& stem);

// The last line that it wrote on stderr.
std::string daemon_complaint(const StorageDaemon& daemon);

}  // namespace pv::serve
