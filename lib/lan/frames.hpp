// SPDX-License-Identifier: MIT
// Ethernet frames in a byte stream, as QEMU's stream netdev sends them: four bytes of length, the
// most significant first, then the frame. What comes in is foreign: no length is believed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace pv::lan {

constexpr size_t k_length_bytes = 4;
constexpr size_t k_ethernet_header = 14;
// The most that QEMU takes itself (NET_BUFSIZE in its include/net/net.h).
constexpr size_t k_max_frame = 4096 + 65536;

class FrameReader {
 public:
  // False when a length is larger than any frame: then the stream is out of step for good.
  bool feed(std::string_view bytes);
  // The next whole frame, of any length that fits; valid until feed() is called again.
  std::optional<std::string_view> next();

 private:
  bool oversized() const;

  std::string data_;
  size_t start_ = 0;
};

// The four bytes that precede a frame.
std::string length_prefix(size_t frame_bytes);

// A MAC address as a number, from six bytes.
uint64_t mac_at(std::string_view frame, size_t offset);
constexpr uint64_t k_multicast_bit = uint64_t{1} << 40;  // also set in the broadcast address

}  // namespace pv::lan
