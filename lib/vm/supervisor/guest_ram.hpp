// SPDX-License-Identifier: MIT
// The memory of a running guest, and how it gets into a file. Either QEMU has it in a memfd of its
// own, which is copied without its zero pages, or it maps the memory of a snapshot privately: then
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
  // `base`: the snapshot's file that it maps; none when the memory is QEMU's own.
  void attach(pid_t qemu, Fd base) {
    qemu_ = qemu;
    base_ = std::move(base);
  }
  bool is_mapped() const { return static_cast<bool>(base_); }

  // Makes `file`, an empty one, ready. May be called while the guest runs.
  Result<> prepare(int file, uint64_t size) const;
  // Once the guest's CPUs stand still: `file` is its memory then.
  Result<> save(int file) const;

 private:
  Result<> save_own(int file) const;
  Result<> save_changed(int file) const;

  pid_t qemu_ = 0;
  Fd base_;
};

}  // namespace pv::vm
