// SPDX-License-Identifier: MIT
// A file seen through memory: what of it the page cache holds can be sent from there without a
// copy. A fault on anything else would block the event loop, so the page cache is asked first
// (mincore(2)), a chunk at a time, and the answer is believed for a moment. It can turn out wrong;
// then a read blocks for as long as the file system takes, and nothing worse.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace pv::blk {

class Window {
 public:
  // Null when the file cannot be mapped. The descriptor may be closed afterwards.
  static std::unique_ptr<Window> open(int fd, uint64_t size);
  ~Window();
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;

  // The bytes when they are in memory, else null.
  const char* look(uint64_t offset, uint64_t length);
  // The range may have lost its pages: a hole that is looked at through a mapping can take room.
  void forget(uint64_t offset, uint64_t length);

 private:
  static constexpr uint64_t k_chunk = 1 << 20;
  struct Free {
    void operator()(uint32_t* p) const { std::free(p); }
  };
  Window(char* base, uint64_t size, uint32_t* seen) : base_(base), size_(size), seen_(seen) {}
  bool resident(uint64_t chunk);

  char* base_;
  uint64_t size_;
  // Per chunk: the time of the last look, in ticks, and whether all of it was there. 0: never.
  std::unique_ptr<uint32_t[], Free> seen_;
  uint32_t tick_ = 1;
  uint32_t looks_ = 0;
};

}  // namespace pv::blk
