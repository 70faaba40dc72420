// SPDX-License-Identifier: MIT
// The bitmap in which a front end that is being migrated wants to see which pages of the guest's
// memory we have written: a bit for each 4 KiB, by guest-physical address.
#pragma once

#include <memory>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "front/vhost/protocol.hpp"

namespace pv::vhost {

class DirtyLog {
 public:
  static Result<std::unique_ptr<DirtyLog>> map(const LogArea& area, const Fd& fd);
  ~DirtyLog();
  DirtyLog(const DirtyLog&) = delete;
  DirtyLog& operator=(const DirtyLog&) = delete;

  // Beyond the end of the log nothing is noted.
  void mark(uint64_t guest, uint64_t length);

 private:
  DirtyLog(char* mapping, size_t mapped, size_t offset, int guard)
      : mapping_(mapping), mapped_(mapped), offset_(offset), guard_(guard) {}

  char* mapping_;
  size_t mapped_, offset_;
  int guard_;
};

}  // namespace pv::vhost
