// SPDX-License-Identifier: MIT
#include "blk/backend/window.hpp"

#include <algorithm>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.hpp"

namespace pv::blk {
namespace {

constexpr uint64_t k_page = 4096;
constexpr uint32_t k_looks_per_clock = 64;  // reading the clock each time would cost more
constexpr uint64_t k_tick_ns = 100 * k_ns_per_ms;
constexpr uint32_t k_believe_ticks = 10;
constexpr uint32_t k_there = 1;  // lowest bit of an entry; the rest is the tick

}  // namespace

std::unique_ptr<Window> Window::open(int fd, uint64_t size) {
  // Pages smaller or larger than that would need other arithmetic below.
  if (size == 0 || sysconf(_SC_PAGESIZE) != static_cast<long>(k_page)) return nullptr;
  void* base = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  if (base == MAP_FAILED) return nullptr;
  auto* seen = static_cast<uint32_t*>(std::calloc(size / k_chunk + 1, sizeof(uint32_t)));
  if (seen == nullptr) {
    munmap(base, size);
    return nullptr;
  }
  return std::unique_ptr<Window>(new Window(static_cast<char*>(base), size, seen));
}

Window::~Window() {
  munmap(base_, size_);
}

const char* Window::look(uint64_t offset, uint64_t length) {
  if (offset > size_ || length > size_ - offset) return nullptr;
  if (looks_++ % k_looks_per_clock == 0)
    tick_ = static_cast<uint32_t>(system_clock().now_ns() / k_tick_ns) & 0x7fffffff;
  for (uint64_t chunk = offset / k_chunk; chunk <= (offset + length - 1) / k_chunk; ++chunk)
    if (!resident(chunk)) return nullptr;
  return base_ + offset;
}

bool Window::resident(uint64_t chunk) {
  uint32_t& seen = seen_[chunk];
  if (seen != 0 && tick_ - (seen >> 1) < k_believe_ticks) return (seen & k_there) != 0;
  unsigned char pages[k_chunk / k_page];
  const uint64_t begin = chunk * k_chunk;
  const uint64_t length = std::min(k_chunk, size_ - begin);
  const auto missing = [](unsigned char page) { return (page & 1) == 0; };
  const bool there = mincore(base_ + begin, length, pages) == 0 &&
                     std::none_of(pages, pages + (length + k_page - 1) / k_page, missing);
  seen = tick_ << 1 | (there ? k_there : 0);
  return there;
}

void Window::forget(uint64_t offset, uint64_t length) {
  if (length == 0 || offset >= size_) return;
  const uint64_t last = std::min(offset + length, size_) - 1;
  std::fill(seen_.get() + offset / k_chunk, seen_.get() + last / k_chunk + 1, 0);
}

}  // namespace pv::blk
