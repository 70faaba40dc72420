// SPDX-License-Identifier: MIT
// vhost-user messages on a socket, as raw as a test wants them: any number, flags, size, payload
// and descriptors. Knows nothing of what they mean. One thread; every wait ends with its deadline.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "base/result.hpp"
#include "protocol.hpp"

namespace pv::test::vhost {

// A structure of the protocol as the bytes of a payload.
template <class T>
std::string bytes_of(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

struct Message {
  uint32_t request = 0;
  std::string payload = {};
  std::vector<int> fds = {};  // borrowed
  uint32_t flags = k_version;
  std::optional<uint32_t> size = {};  // what the header says in place of the payload's size
};

struct Received {
  uint32_t request = 0;
  uint32_t flags = 0;
  std::string payload;
  std::vector<Fd> fds;
};

class Channel {
 public:
  Channel() = default;
  explicit Channel(Fd fd) : fd_(std::move(fd)) {}
  // Tries again until the deadline while there is no socket, or nobody listens.
  static Result<Channel> connect(const std::string& path, const Deadline& deadline);

  Result<> send(const Message& message, const Deadline& deadline);
  // Any bytes: half a header, or several messages. The descriptors go with the first of them.
  Result<> send_bytes(std::string_view bytes, std::span<const int> fds, const Deadline& deadline);
  // The next message. Code::server_dead when the peer has hung up, Code::timeout when nothing came.
  Result<Received> receive(const Deadline& deadline);
  // Succeeds once the peer has hung up; what it still says until then is dropped.
  Result<> wait_closed(const Deadline& deadline);

  int fd() const { return fd_.get(); }
  explicit operator bool() const { return static_cast<bool>(fd_); }

 private:
  Result<> wait(short events, const Deadline& deadline) const;
  // Exactly `count` bytes; descriptors that come along are collected.
  Result<std::string> take(size_t count, std::vector<Fd>& fds, const Deadline& deadline);

  Fd fd_;
};

}  // namespace pv::test::vhost
