// SPDX-License-Identifier: MIT
#include "front/vhost/channel.hpp"

#include <cerrno>
#include <sys/socket.h>
#include <sys/uio.h>

#include <fmt/format.h>

namespace pv::vhost {
namespace {

// More than may come, so that one that is too many is seen and closed, not cut off by the kernel.
constexpr size_t k_fd_room = 2 * k_max_fds;

}  // namespace

void take_descriptors(const msghdr& head, std::vector<Fd>& fds) {
  for (cmsghdr* c = CMSG_FIRSTHDR(&head); c != nullptr;
       c = CMSG_NXTHDR(const_cast<msghdr*>(&head), c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      fds.emplace_back(fd);
    }
  }
}

void give_descriptors(msghdr& head, std::span<const int> fds, char* control) {
  head.msg_control = control;
  head.msg_controllen = CMSG_SPACE(fds.size_bytes());
  cmsghdr* c = CMSG_FIRSTHDR(&head);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(fds.size_bytes());
  std::memcpy(CMSG_DATA(c), fds.data(), fds.size_bytes());
}

Result<Message*> Channel::receive() {
  if (have_ == 0) message_.fds.clear();
  while (true) {
    const bool in_header = have_ < sizeof(Header);
    const size_t end = in_header ? sizeof(Header) : sizeof(Header) + message_.header.size;
    if (!in_header && have_ == end) {
      have_ = 0;
      return &message_;
    }
    char* to = in_header ? reinterpret_cast<char*>(&message_.header) + have_
                         : message_.payload + (have_ - sizeof(Header));
    iovec piece{to, end - have_};
    alignas(cmsghdr) char control[CMSG_SPACE(k_fd_room * sizeof(int))];
    msghdr head{};
    head.msg_iov = &piece;
    head.msg_iovlen = 1;
    head.msg_control = control;
    head.msg_controllen = sizeof control;
    const ssize_t n = recvmsg(socket_.get(), &head, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return nullptr;
    if (n <= 0) return fail(Code::io, "the client has gone");
    take_descriptors(head, message_.fds);
    if (message_.fds.size() > k_max_fds || (head.msg_flags & MSG_CTRUNC) != 0)
      return fail(Code::invalid, "a message with too many descriptors");
    have_ += static_cast<size_t>(n);
    if (!in_header || have_ < sizeof(Header)) continue;
    if ((message_.header.flags & k_version_mask) != k_version ||
        message_.header.size > k_max_payload)
      return fail(Code::invalid, fmt::format("a message with flags {:#x} and {} bytes",
                                             message_.header.flags, message_.header.size));
  }
}

Result<> Channel::reply(uint32_t request, std::string_view payload, int fd) {
  return send_message(socket_.get(),
                      {request, k_version | k_reply, static_cast<uint32_t>(payload.size())},
                      payload, fd);
}

Result<> send_message(int socket, const Header& header, std::string_view payload, int fd) {
  iovec pieces[2] = {{const_cast<Header*>(&header), sizeof header},
                     {const_cast<char*>(payload.data()), payload.size()}};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr head{};
  head.msg_iov = pieces;
  head.msg_iovlen = 2;
  if (fd >= 0) give_descriptors(head, {&fd, 1}, control);
  // An answer is small and its reader waits for it: a full socket is a client that never reads.
  const ssize_t n = sendmsg(socket, &head, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (n != static_cast<ssize_t>(sizeof header + payload.size()))
    return fail(Code::io, "the client does not read");
  return {};
}

}  // namespace pv::vhost
