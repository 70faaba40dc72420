// SPDX-License-Identifier: MIT
// The memory of a running guest, and how it gets into a file. Either it is a file that QEMU shares
// with us, which is copied without its zero pages, or QEMU maps that of a snapshot privately: then
// that file is copied beforehand, while the guest still runs, and what the guest has changed since,
// by the word of /proc/PID/pagemap, is laid over it. Owned by the supervisor, on its thread, which
// stands still meanwhile: so do the guest's CPUs.
#pragma once

#include <string>

#include "base/fd.hpp"
#include "base/process.hpp"
#include "base/result.hpp"

namespace pv::vm {

class GuestRam {
 public:
  // `mapped`: `memory` is a snapshot's file, and mapped privately.
  void attach(pid_t qemu, Fd memory, bool mapped) {
    qemu_ = qemu;
    memory_ = std::move(memory);
    mapped_ = mapped;
  }
  bool is_mapped() const { return mapped_; }

  // Makes `file`, an empty one, ready. May be called while the guest runs.
  Result<> prepare(int file, uint64_t size) const;
  // Once the guest's CPUs stand still: `file` is its memory then.
  Result<> save(int file) const;

 private:
  Result<> save_shared(int file) const;
  Result<> save_changed(int file) const;

  pid_t qemu_ = 0;
  Fd memory_;
  bool mapped_ = false;
};

}  // namespace pv::vm
