// SPDX-License-Identifier: MIT
// Copies between the pieces of a request's data and memory in one piece.
#pragma once

#include <algorithm>
#include <cstring>

#include "blk/disk.hpp"

namespace pv::blk {

// piece(memory, bytes) for each stretch of the request's data from byte `from` on.
template <class F>
void each_segment(const Request& request, uint64_t from, uint64_t length, F&& piece) {
  for (int i = 0; i < request.segments && length != 0; ++i) {
    const iovec& segment = request.data[i];
    if (from >= segment.iov_len) {
      from -= segment.iov_len;
      continue;
    }
    const uint64_t n = std::min<uint64_t>(length, segment.iov_len - from);
    piece(static_cast<char*>(segment.iov_base) + from, static_cast<size_t>(n));
    from = 0;
    length -= n;
  }
}

// `to` becomes bytes [from, from + length) of the request's data.
inline void gather(const Request& request, uint64_t from, char* to, uint64_t length) {
  each_segment(request, from, length, [&](const char* data, size_t n) {
    std::memcpy(to, data, n);
    to += n;
  });
}

// Bytes [from, from + length) of the request's data become what stands at `source`.
inline void scatter(const Request& request, uint64_t from, const char* source, uint64_t length) {
  each_segment(request, from, length, [&](char* data, size_t n) {
    std::memcpy(data, source, n);
    source += n;
  });
}

}  // namespace pv::blk
