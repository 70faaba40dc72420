// SPDX-License-Identifier: MIT
// A server over memory and raw sockets to it, all on one loop, with requests as bytes.
#pragma once

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <sys/socket.h>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "base/socket.hpp"
#include "blk/backend/memory.hpp"
#include "blk/registry.hpp"
#include "front/nbd/protocol.hpp"
#include "front/nbd/server.hpp"
#include "nbd_bytes.hpp"

namespace pv::test {

using namespace nbd;

inline std::string go(bool structured) {
  std::string out = be(3, 4);
  if (structured) out += be(k_option_magic, 8) + be(k_opt_structured_reply, 4) + be(0, 4);
  return out + be(k_option_magic, 8) + be(k_opt_go, 4) + be(6, 4) + std::string(6, '\0');
}

inline std::string request(uint16_t command, uint64_t cookie, uint64_t offset, uint32_t length,
                           const std::string& data = "", uint16_t flags = 0) {
  return be(k_request_magic, 4) + be(flags, 2) + be(command, 2) + be(cookie, 8) + be(offset, 8) +
         be(length, 4) + data;
}

// A server over memory and a raw socket to it, both on one loop.
struct Wire {
  TempDir dir;
  std::unique_ptr<Loop> loop = *Loop::create();
  std::unique_ptr<blk::Disk> disk;
  blk::Counters counters;
  std::unique_ptr<Server> server;

  explicit Wire(blk::Geometry geometry = {}) {
    geometry.size = 1 << 20;
    const std::vector<blk::LayerSpec> layers = {{"fault", {}}};
    disk = *blk::build_stack(*blk::make_memory_disk(geometry), layers,
                             {system_clock(), *loop, loop.get(), 0}, true);
    server = std::make_unique<Server>(*loop, *listen_unix(dir.path("s")), *disk, counters,
                                      Export{"disk", "a disk", geometry});
    REQUIRE(server->start());
  }
  Fd connect() {
    auto fd = connect_unix(dir.path("s"), Deadline::in_ms(5000));
    REQUIRE(fd);
    fcntl(fd->get(), F_SETFL, O_NONBLOCK);
    spin();
    return std::move(*fd);
  }
  void spin(int rounds = 3) {
    for (int i = 0; i < rounds; ++i) REQUIRE(loop->run_once(0));
  }
  std::string take(Fd& fd) {
    std::string out;
    char chunk[65536];
    for (ssize_t n; (n = recv(fd.get(), chunk, sizeof chunk, 0)) > 0; spin(1))
      out.append(chunk, static_cast<size_t>(n));
    return out;
  }
  // Sends everything, in pieces, running the loop in between; what came back.
  std::string say(Fd& fd, const std::string& bytes, const std::function<size_t()>& piece) {
    std::string out;
    for (size_t at = 0; at < bytes.size();) {
      const size_t n = std::min(std::max<size_t>(piece(), 1), bytes.size() - at);
      const ssize_t sent = send(fd.get(), bytes.data() + at, n, MSG_NOSIGNAL);
      if (sent < 0 && errno != EAGAIN) break;  // cut off: that may be the answer
      at += sent > 0 ? static_cast<size_t>(sent) : 0;
      spin(1);
      out += take(fd);
    }
    spin();
    return out + take(fd);
  }
  std::string say(Fd& fd, const std::string& bytes) {
    return say(fd, bytes, [&] { return bytes.size(); });
  }
  bool closed(Fd& fd) {
    spin();
    char byte;
    const ssize_t n = recv(fd.get(), &byte, 1, MSG_PEEK);
    return n == 0 || (n < 0 && errno != EAGAIN);
  }
};

}  // namespace pv::test
