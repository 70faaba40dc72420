// SPDX-License-Identifier: MIT
// Waiting for something to change in a directory (inotify(7)): files that are written, appear,
// go, or are replaced. Tells that, not what: who waits looks for what it wants itself.
#pragma once

#include <string>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "base/result.hpp"

namespace pv {

class DirWatch {
 public:
  static Result<DirWatch> open(const std::string& dir);

  // Until there was a change since the last call, or the time is up. Changes between two calls are
  // not missed: look, wait, look again.
  void wait(uint64_t max_ns);
  // Readable when there was a change; drain() forgets it.
  int fd() const { return fd_.get(); }
  void drain();

 private:
  explicit DirWatch(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

}  // namespace pv
