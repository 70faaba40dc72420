// SPDX-License-Identifier: MIT
// Payload buffers by size class, kept for reuse up to a bound, so that a busy connection allocates
// nothing. Owned by one server, used on its loop's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pv::nbd {

class Buffers {
 public:
  Buffers() = default;
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;
  ~Buffers();

  // At least `size` bytes (at most 64 MiB), page aligned; null when memory is out.
  char* take(size_t size);
  // `size` as it was asked for.
  void give(char* buffer, size_t size);

 private:
  static constexpr size_t k_classes = 15;          // 4 KiB … 64 MiB
  static constexpr size_t k_keep_bytes = 8 << 20;  // of each class at most so much is kept
  static size_t class_of(size_t size);
  static size_t bytes_of(size_t index) { return size_t{4096} << index; }
  std::vector<char*> free_[k_classes];
};

}  // namespace pv::nbd
