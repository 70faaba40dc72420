// SPDX-License-Identifier: MIT
// Stops the VM of a disk when a layer wants it (verify.stop_wanted): asks its supervisor to pause
// it, and lets go the request for which that was done. The request is let go soon after the
// question and not after the answer, because QEMU, which stops its processors first, then waits for
// every request of its disks. On the loop's thread.
#pragma once

#include <string>

#include "base/loop.hpp"
#include "base/run_dir.hpp"
#include "blk/disk.hpp"

namespace pv::serve {

class VmStop {
 public:
  VmStop(Loop& loop, blk::Disk& disk, const Object& object)
      : loop_(loop), disk_(disk), object_(object) {}
  ~VmStop();
  VmStop(const VmStop&) = delete;
  VmStop& operator=(const VmStop&) = delete;

  // Something was found: maybe that.
  void look_soon();

 private:
  void look();
  Result<Fd> ask() const;
  void heard();
  void over(const std::string& error);

  Loop& loop_;
  blk::Disk& disk_;
  const Object& object_;
  TimerId look_timer_ = 0, let_go_timer_ = 0;
  Fd supervisor_;  // while it has not answered
  std::string answer_;
};

}  // namespace pv::serve
