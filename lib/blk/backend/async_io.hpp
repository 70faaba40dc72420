// SPDX-License-Identifier: MIT
// System calls that may block, kept off the event loop: io_uring where the kernel grants it, a
// small thread pool where it does not (containers often forbid io_uring). Completions run on the
// loop's thread either way.
#pragma once

#include <cstdint>
#include <fcntl.h>
#include <memory>
#include <sys/uio.h>

#include "base/loop.hpp"
#include "base/result.hpp"

namespace pv::blk {

// One call. Owned by the caller until `done` runs with what the system call returned: a count, or
// a negative errno.
struct AsyncCall {
  enum Kind : uint8_t { readv, writev, fdatasync, fallocate } kind = readv;
  int fd = -1;
  int mode = 0;  // fallocate mode, or RWF_* flags of a transfer
  const iovec* data = nullptr;
  int segments = 0;
  uint64_t offset = 0;
  uint64_t length = 0;  // fallocate
  void* owner = nullptr;
  void (*done)(AsyncCall& call, int64_t result) = nullptr;
};

class AsyncIo {
 public:
  virtual ~AsyncIo() = default;
  virtual void start(AsyncCall& call) = 0;
  virtual const char* name() const = 0;

  // io_uring, or the pool when that fails or $PV_NO_IO_URING is set.
  static Result<std::unique_ptr<AsyncIo>> create(Loop& loop);
};

Result<std::unique_ptr<AsyncIo>> make_uring_io(Loop& loop);
Result<std::unique_ptr<AsyncIo>> make_pool_io(Loop& loop);

}  // namespace pv::blk
