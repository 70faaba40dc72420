// SPDX-License-Identifier: MIT
// The process that starts a disk's server again when it was killed or has crashed (--restart). It
// owns the server, ends with it when that ends by itself, and greets vhost-user clients in its
// place (front/vhost/greeter.hpp); else it does nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/fd.hpp"
#include "base/run_dir.hpp"

namespace pv::serve {

// Left in a disk's directory by who closes it: its server is not started again.
constexpr const char* k_closing_file = "closing";

// What one of the servers is told.
struct Life {
  bool again = false;         // one before it has died
  int door = -1;              // where it is handed vhost-user clients; -1: there are none
  uint64_t* offer = nullptr;  // ... and where it says which features they are offered
};

// Runs `serve` in a child, and again. `vhost_socket`: where clients come; "" for no such disk. The
// first child alone has `ready`. Returns the exit status of the last.
int keep_serving(const Object& disk, const std::string& vhost_socket, Fd& ready,
                 const std::function<int(const Life&)>& serve);

}  // namespace pv::serve
