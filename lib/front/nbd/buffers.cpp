// SPDX-License-Identifier: MIT
#include "front/nbd/buffers.hpp"

#include <bit>
#include <cstdlib>

namespace pv::nbd {

Buffers::~Buffers() {
  for (auto& list : free_)
    for (char* buffer : list) std::free(buffer);
}

size_t Buffers::class_of(size_t size) {
  return size <= 4096 ? 0 : static_cast<size_t>(std::bit_width((size - 1) >> 12));
}

char* Buffers::take(size_t size) {
  auto& list = free_[class_of(size)];
  if (list.empty()) return static_cast<char*>(std::aligned_alloc(4096, bytes_of(class_of(size))));
  char* buffer = list.back();
  list.pop_back();
  return buffer;
}

void Buffers::give(char* buffer, size_t size) {
  if (buffer == nullptr) return;
  const size_t index = class_of(size);
  if (free_[index].size() * bytes_of(index) >= k_keep_bytes) return std::free(buffer);
  free_[index].push_back(buffer);
}

}  // namespace pv::nbd
