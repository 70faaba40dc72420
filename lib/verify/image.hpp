// SPDX-License-Identifier: MIT
// A disk as the verifiers see it: bytes at addresses, and which of them need not be read. Calls
// block, and several threads may make them at once.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "base/loop.hpp"
#include "base/result.hpp"
#include "blk/disk.hpp"

namespace pv::verify {

// Memory to read into, at the start of a page: the kernel copies there at several times the speed
// that it has elsewhere.
class Buffer {
 public:
  explicit Buffer(size_t length = 0)
      : bytes_(length == 0 ? nullptr : static_cast<char*>(std::aligned_alloc(k_page, up(length)))) {
    if (length != 0 && bytes_ == nullptr) throw std::bad_alloc();
  }
  char* data() { return bytes_.get(); }
  const char* data() const { return bytes_.get(); }

 private:
  static constexpr size_t k_page = 4096;
  static size_t up(size_t length) { return (length + k_page - 1) / k_page * k_page; }
  struct Free {
    void operator()(char* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<char, Free> bytes_;
};

class Image {
 public:
  virtual ~Image() = default;
  virtual uint64_t size() const = 0;  // bytes
  // How much to read at once for the best speed.
  virtual size_t read_size() const { return 128 << 10; }  // stays in a processor's own cache
  // Read-only images answer write() and flush() with Code::read_only.
  virtual bool read_only() const = 0;
  virtual Result<> read(uint64_t offset, char* data, size_t length) = 0;
  virtual Result<> write(uint64_t offset, const char* data, size_t length) = 0;
  virtual Result<> flush() = 0;
  // Appends at least one extent, from `offset` on and at most `length` bytes of it together.
  // Called by one thread at a time.
  virtual Result<> map(uint64_t offset, uint64_t length, std::vector<blk::Extent>& extents) = 0;
  // Code::aborted when somebody else has changed it since it was opened, where that can be told.
  virtual Result<> unchanged() const = 0;
};

// A raw file or block device, any size in bytes. `name` is for messages.
Result<std::unique_ptr<Image>> make_raw_image(Fd fd, const std::string& name, bool read_only);

// A plain qcow2 file, only read: its data lies in the file at places that its tables name.
// Code::unsupported for one that only QEMU can read (compressed, encrypted, on another image, with
// features of later versions, or in more than a million pieces); Code::invalid when it is
// damaged.
Result<std::unique_ptr<Image>> make_qcow2_image(Fd fd, const std::string& name);

// Any disk of the data plane, on a loop and a thread of its own. `make` runs on that thread and
// makes the disk; what it captures lives until the disk is gone. When a call has not ended by
// `deadline` it fails, and so does every later one.
using MakeDisk = std::function<Result<std::unique_ptr<blk::Disk>>(Loop& loop)>;
Result<std::unique_ptr<Image>> make_disk_image(MakeDisk make, const std::string& name,
                                               const Deadline& deadline);

}  // namespace pv::verify
