// SPDX-License-Identifier: MIT
// The file that an overlay lives in: a disk for what happens while requests are served, plain calls
// for opening, closing and resizing, when nothing is in flight. Tests put a file in its place that
// loses power.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "blk/backend/async_io.hpp"
#include "blk/disk.hpp"

namespace pv::blk {

class CowStore {
 public:
  virtual ~CowStore() = default;
  virtual Disk& disk() = 0;  // addressed by file offset
  virtual Result<uint64_t> length() = 0;
  virtual Result<bool> blank() = 0;  // holds no data at all
  virtual Result<> read(uint64_t offset, char* bytes, size_t count) = 0;
  virtual Result<> write(uint64_t offset, const char* bytes, size_t count) = 0;
  virtual Result<> sync() = 0;
  virtual Result<> set_length(uint64_t length) = 0;
  // Goes away with the process: nothing in it need ever be on disk.
  virtual bool temporary() const { return false; }
  // Opened to be looked at only.
  virtual bool read_only() const { return false; }
  // The file, for a snapshot to be copied from; -1 where there is none.
  virtual int fd() const { return -1; }
  virtual std::string name() const = 0;
};

// Opens `path`, made when it is missing, locked for us alone; a nameless file in $TMPDIR or
// /var/tmp when `path` is empty. With `read_only` it must be there, and is shared with others that
// only read it. Code::in_use when another server has it.
Result<std::unique_ptr<CowStore>> open_cow_store(const std::string& path, bool read_only,
                                                 AsyncIo& io);

}  // namespace pv::blk
