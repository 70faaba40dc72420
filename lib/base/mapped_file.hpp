// SPDX-License-Identifier: MIT
// A small file of ours, seen as memory: what is written there survives the process, also one that
// is killed. Owned by whoever opens it.
#pragma once

#include <string>
#include <utility>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace pv {

class MappedFile {
 public:
  // Opens or makes it, mode 0600, `size` bytes long, of which new ones are zero. It is locked until
  // this is gone; Code::in_use when another has it.
  static Result<MappedFile> open(const std::string& path, size_t size);
  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept
      : fd_(std::move(other.fd_)), data_(std::exchange(other.data_, nullptr)), size_(other.size_) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~MappedFile();

  char* data() const { return data_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  Fd fd_;
  char* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace pv
