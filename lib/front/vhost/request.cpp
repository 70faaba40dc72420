// SPDX-License-Identifier: MIT
#include "front/vhost/request.hpp"

#include <algorithm>
#include <cstring>

namespace pv::vhost {
namespace {

using Segments = std::vector<Segment>;

// What each type takes: bytes to us (out) or from us, and how many.
struct Type {
  BlkType type;
  bool has_data, to_us;
  uint64_t unit, max;  // the length is a multiple of `unit`
};
constexpr Type k_types[] = {
    {BlkType::in, true, false, k_sector, k_max_transfer},
    {BlkType::out, true, true, k_sector, k_max_transfer},
    {BlkType::flush, false, true, 1, 0},
    {BlkType::get_id, true, false, 1, UINT64_MAX},
    {BlkType::discard, true, true, sizeof(BlkRange), k_max_ranges * sizeof(BlkRange)},
    {BlkType::write_zeroes, true, true, sizeof(BlkRange), k_max_ranges * sizeof(BlkRange)},
};

// Copies out of the guest's memory; false where it is none.
bool copy_out(const Memory& memory, uint64_t guest, char* to, size_t length) {
  thread_local std::vector<iovec> pieces;
  pieces.clear();
  if (!memory.find(guest, length, pieces)) return false;
  for (const iovec& piece : pieces) {
    std::memcpy(to, piece.iov_base, piece.iov_len);
    to += piece.iov_len;
  }
  return true;
}

// Takes the header off the front of the segments, from `first` on.
bool take_header(Segments& segments, size_t& first, const Memory& memory, BlkHeader& header) {
  char* to = reinterpret_cast<char*>(&header);
  size_t left = sizeof header;
  while (left != 0) {
    if (first == segments.size() || segments[first].writable) return false;
    Segment& segment = segments[first];
    const auto n = static_cast<uint32_t>(std::min<size_t>(left, segment.length));
    if (!copy_out(memory, segment.guest, to, n)) return false;
    to += n;
    left -= n;
    segment.guest += n;
    segment.length -= n;
    if (segment.length == 0) ++first;
  }
  return true;
}

uint8_t* last_byte(const Segment& segment, const Memory& memory) {
  uint64_t end = 0;
  if (__builtin_add_overflow(segment.guest, segment.length, &end)) return nullptr;
  return reinterpret_cast<uint8_t*>(memory.find(end - 1, 1));
}

// The last byte that we may write is the status; its segment goes when nothing else is in it.
uint8_t* take_status(Segments& segments, const Memory& memory) {
  if (segments.empty() || !segments.back().writable || segments.back().length == 0) return nullptr;
  Segment& last = segments.back();
  uint8_t* at = last_byte(last, memory);
  if (--last.length == 0) segments.pop_back();
  return at;
}

Verdict read_ranges(const Memory& memory, const Segments& segments, size_t first,
                    BlkRequest& request) {
  char bytes[k_max_ranges * sizeof(BlkRange)];
  size_t have = 0;
  for (size_t i = first; i < segments.size(); ++i) {
    if (!copy_out(memory, segments[i].guest, bytes + have, segments[i].length))
      return Verdict::io_error;
    have += segments[i].length;
  }
  const uint32_t known = request.type == BlkType::write_zeroes ? k_range_unmap : 0;
  for (size_t at = 0; at < have; at += sizeof(BlkRange)) {
    BlkRange range{};
    std::memcpy(&range, bytes + at, sizeof range);
    if ((range.flags & ~known) != 0) return Verdict::unsupported;
    if (range.sectors != 0) request.ranges.push_back(range);
  }
  return Verdict::run;
}

Verdict read_data(const Type& type, const Memory& memory, const Segments& segments, size_t first,
                  BlkRequest& request) {
  if (type.has_data && first == segments.size()) return Verdict::io_error;
  for (size_t i = first; i < segments.size(); ++i) {
    if (segments[i].writable == type.to_us) return Verdict::io_error;
    request.length += segments[i].length;
  }
  if (request.length % type.unit != 0 || request.length > type.max) return Verdict::io_error;
  if (type.type == BlkType::discard || type.type == BlkType::write_zeroes)
    return request.length == 0 ? Verdict::io_error : read_ranges(memory, segments, first, request);
  if (type.type == BlkType::get_id) {
    // One that is too short is refused, not filled with a part that would pass for the whole.
    if (segments[first].length < k_id_bytes) return Verdict::io_error;
    request.length = k_id_bytes;
    return memory.find(segments[first].guest, k_id_bytes, request.data) ? Verdict::run
                                                                        : Verdict::io_error;
  }
  for (size_t i = first; i < segments.size(); ++i)
    if (!memory.find(segments[i].guest, segments[i].length, request.data)) return Verdict::io_error;
  return request.data.size() <= k_max_pieces ? Verdict::run : Verdict::io_error;
}

// Of a chain that has no end: the last byte that we were given to write is its best guess.
uint8_t* any_status(const Segments& segments, const Memory& memory) {
  for (size_t i = segments.size(); i-- > 0;)
    if (segments[i].writable && segments[i].length != 0) return last_byte(segments[i], memory);
  return nullptr;
}

}  // namespace

Verdict read_request(const Chain& chain, const Memory& memory, BlkRequest& request) {
  request.data.clear();
  request.ranges.clear();
  request.length = 0;
  if (chain.broken) {
    request.status = any_status(chain.segments, memory);
    return Verdict::io_error;
  }
  thread_local Segments segments;
  segments = chain.segments;
  request.status = take_status(segments, memory);
  size_t first = 0;
  BlkHeader header{};
  if (request.status == nullptr || !take_header(segments, first, memory, header))
    return Verdict::io_error;
  const auto* type = std::find_if(std::begin(k_types), std::end(k_types), [&](const Type& t) {
    return static_cast<uint32_t>(t.type) == header.type;
  });
  if (type == std::end(k_types)) return Verdict::unsupported;
  request.type = type->type;
  request.sector = header.sector;
  return read_data(*type, memory, segments, first, request);
}

}  // namespace pv::vhost
