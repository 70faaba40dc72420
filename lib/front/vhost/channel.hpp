// SPDX-License-Identifier: MIT
// Messages on a vhost-user socket, with the descriptors that come along. Nothing that is read here
// is believed beyond its own length. Owned by a Device, on the loop's thread.
#pragma once

#include <cstring>
#include <span>
#include <string_view>
#include <sys/socket.h>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "front/vhost/protocol.hpp"

namespace pv::vhost {

struct Message {
  Header header{};
  char payload[k_max_payload];
  std::vector<Fd> fds;

  // The payload as a T; it has to be exactly that long.
  template <class T>
  bool get(T& value) const {
    if (header.size != sizeof(T)) return false;
    std::memcpy(&value, payload, sizeof(T));
    return true;
  }
  // The only descriptor, or none when there are more or fewer.
  Fd take_fd() { return fds.size() == 1 ? std::move(fds.front()) : Fd(); }
};

class Channel {
 public:
  explicit Channel(Fd socket) : socket_(std::move(socket)) {}
  int fd() const { return socket_.get(); }
  void close() { socket_.reset(); }
  // Between two messages.
  Fd release() { return std::move(socket_); }

  // The next message, complete; null when the rest has not come yet. An error ends the
  // conversation: the client has gone, or is out of step.
  Result<Message*> receive();
  // Sends an answer to `request`, with one descriptor or none. The client reads, or is given up.
  Result<> reply(uint32_t request, std::string_view payload, int fd = -1);

 private:
  Fd socket_;
  Message message_;
  size_t have_ = 0;  // bytes of header and payload
};

// What came along with a message; and the other way round, with `control` as the room for it, of
// CMSG_SPACE for all of them, which has to live until the message is sent.
void take_descriptors(const msghdr& head, std::vector<Fd>& fds);
void give_descriptors(msghdr& head, std::span<const int> fds, char* control);

// One message, whole or not at all; a receiver that does not read is an error.
Result<> send_message(int socket, const Header& header, std::string_view payload, int fd = -1);

}  // namespace pv::vhost
