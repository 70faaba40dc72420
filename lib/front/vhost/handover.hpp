// SPDX-License-Identifier: MIT
// A conversation that somebody else has begun for us: what the client has said so far, without what
// was only asked and answered, and the first message that is the server's to carry out. It goes
// through a socket of packets, with the client's own socket and every descriptor that came along.
#pragma once

#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "front/vhost/channel.hpp"

namespace pv::vhost {

struct Said {
  Header header{};
  std::string payload;
  std::vector<Fd> fds;

  static Said of(Message& message);
  void to(Message& message);
};

struct Handover {
  Fd socket;
  std::vector<Said> said;  // the last one is not answered

  static constexpr size_t k_max_said = 160;  // messages, and descriptors
};

// The packet is sent whole or not at all.
Result<> send_handover(int door, const Handover& handover);
// The next one; one without a socket when there is none. An error is the end of the door.
Result<Handover> receive_handover(int door);

}  // namespace pv::vhost
