// SPDX-License-Identifier: MIT
#include "front/vhost/handover.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sys/socket.h>
#include <sys/uio.h>

namespace pv::vhost {
namespace {

constexpr size_t k_max_packet = 64 << 10;
constexpr size_t k_max_packet_fds = Handover::k_max_said + 1;  // of SCM_MAX_FD, 253

// In front of each message's payload.
struct Part {
  Header header;
  uint32_t fds;
};

Result<std::vector<Fd>> receive_packet(int door, std::string& packet) {
  packet.resize(k_max_packet);
  iovec piece{packet.data(), packet.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(k_max_packet_fds * sizeof(int))];
  msghdr head{};
  head.msg_iov = &piece;
  head.msg_iovlen = 1;
  head.msg_control = control;
  head.msg_controllen = sizeof control;
  const ssize_t n = recvmsg(door, &head, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  packet.resize(n > 0 ? static_cast<size_t>(n) : 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return std::vector<Fd>();
  if (n <= 0) return fail(Code::io, "nobody hands over clients any more");
  std::vector<Fd> fds;
  take_descriptors(head, fds);
  return fds;
}

}  // namespace

Said Said::of(Message& message) {
  Said said{message.header, std::string(message.payload, message.header.size), {}};
  said.fds = std::move(message.fds);
  return said;
}

void Said::to(Message& message) {
  message.header = header;
  std::memcpy(message.payload, payload.data(), payload.size());
  message.fds = std::move(fds);
}

Result<> send_handover(int door, const Handover& handover) {
  std::string packet;
  std::vector<int> fds = {handover.socket.get()};
  for (const Said& said : handover.said) {
    const Part part{said.header, static_cast<uint32_t>(said.fds.size())};
    packet.append(reinterpret_cast<const char*>(&part), sizeof part);
    packet += said.payload;
    for (const Fd& fd : said.fds) fds.push_back(fd.get());
  }
  if (fds.size() > k_max_packet_fds || packet.size() > k_max_packet)
    return fail(Code::invalid, "a client has said too much");
  iovec piece{packet.data(), packet.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(k_max_packet_fds * sizeof(int))] = {};
  msghdr head{};
  head.msg_iov = &piece;
  head.msg_iovlen = 1;
  give_descriptors(head, fds, control);
  if (sendmsg(door, &head, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
    return fail_errno("a client cannot be handed over", errno);
  return {};
}

Result<Handover> receive_handover(int door) {
  std::string packet;
  TRY_ASSIGN(std::vector<Fd> fds, receive_packet(door, packet));
  Handover handover;
  if (fds.empty()) return handover;
  size_t at = 0, fd = 1;
  while (packet.size() - at >= sizeof(Part)) {
    Part part{};
    std::memcpy(&part, packet.data() + at, sizeof part);
    at += sizeof part;
    if (part.header.size > std::min(packet.size() - at, k_max_payload) ||
        part.fds > std::min(fds.size() - fd, k_max_fds))
      return fail(Code::bug, "a handover that is none");
    Said said{part.header, packet.substr(at, part.header.size), {}};
    at += part.header.size;
    for (uint32_t i = 0; i < part.fds; ++i) said.fds.push_back(std::move(fds[fd++]));
    handover.said.push_back(std::move(said));
  }
  if (handover.said.empty()) return fail(Code::bug, "a handover that is none");
  handover.socket = std::move(fds.front());
  return handover;
}

}  // namespace pv::vhost
