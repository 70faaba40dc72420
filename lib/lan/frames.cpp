// SPDX-License-Identifier: MIT
#include "lan/frames.hpp"

namespace pv::lan {
namespace {

constexpr size_t k_mac_bytes = 6;

uint64_t big_endian(std::string_view bytes) {
  uint64_t number = 0;
  for (const char byte : bytes) number = number << 8 | static_cast<unsigned char>(byte);
  return number;
}

}  // namespace

bool FrameReader::feed(std::string_view bytes) {
  data_.erase(0, start_);
  start_ = 0;
  data_ += bytes;
  return !oversized();
}

bool FrameReader::oversized() const {
  // All lengths that can be seen already: next() hands out nothing of a stream that went wrong.
  for (size_t at = start_; data_.size() - at >= k_length_bytes;) {
    const uint64_t length = big_endian({data_.data() + at, k_length_bytes});
    if (length > k_max_frame) return true;
    if (data_.size() - at - k_length_bytes < length) return false;
    at += k_length_bytes + length;
  }
  return false;
}

std::optional<std::string_view> FrameReader::next() {
  const std::string_view left = std::string_view(data_).substr(start_);
  if (left.size() < k_length_bytes) return std::nullopt;
  const uint64_t length = big_endian(left.substr(0, k_length_bytes));
  if (left.size() - k_length_bytes < length) return std::nullopt;
  start_ += k_length_bytes + length;
  return left.substr(k_length_bytes, length);
}

std::string length_prefix(size_t frame_bytes) {
  std::string prefix;
  for (size_t i = 0; i < k_length_bytes; ++i)
    prefix += static_cast<char>(frame_bytes >> 8 * (k_length_bytes - 1 - i) & 0xff);
  return prefix;
}

uint64_t mac_at(std::string_view frame, size_t offset) {
  return big_endian(frame.substr(offset, k_mac_bytes));
}

}  // namespace pv::lan
