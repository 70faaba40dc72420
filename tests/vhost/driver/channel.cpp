// SPDX-License-Identifier: MIT
#include "channel.hpp"

#include <cerrno>
#include <cstring>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <fmt/format.h>

#include "base/socket.hpp"

namespace pv::test::vhost {
namespace {

constexpr size_t k_max_fds = 64;
constexpr uint32_t k_max_payload = 64 << 10;

Error hung_up() {
  return Error(Code::server_dead, "the server has hung up");
}

}  // namespace

Result<Channel> Channel::connect(const std::string& path, const Deadline& deadline) {
  while (true) {
    auto fd = connect_unix(path, deadline);
    if (fd) return Channel(std::move(*fd));
    const int err = fd.error().sys_errno;
    if ((err != ENOENT && err != ECONNREFUSED) || deadline.passed()) return fail(fd.error());
    sleep_ns(2 * k_ns_per_ms);
  }
}

Result<> Channel::wait(short events, const Deadline& deadline) const {
  while (true) {
    pollfd waited{fd_.get(), events, 0};
    const int n = poll(&waited, 1, deadline.left_ms());
    if (n > 0) return {};
    if (n == 0) return fail(Code::timeout, "the server says nothing");
    if (errno != EINTR) return fail_errno("poll", errno);
  }
}

Result<> Channel::send(const Message& message, const Deadline& deadline) {
  const uint32_t size = message.size.value_or(static_cast<uint32_t>(message.payload.size()));
  const Header header{message.request, message.flags, size};
  return send_bytes(bytes_of(header) + message.payload, message.fds, deadline);
}

Result<> Channel::send_bytes(std::string_view bytes, std::span<const int> fds,
                             const Deadline& deadline) {
  if (!fd_) return fail(Code::wrong_state, "not connected");
  while (!bytes.empty()) {
    iovec piece{const_cast<char*>(bytes.data()), bytes.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(k_max_fds * sizeof(int))] = {};
    msghdr sent{};
    sent.msg_iov = &piece;
    sent.msg_iovlen = 1;
    if (!fds.empty()) {
      if (fds.size() > k_max_fds) return fail(Code::invalid, "too many descriptors");
      sent.msg_control = control;
      sent.msg_controllen = CMSG_SPACE(fds.size_bytes());
      cmsghdr* head = CMSG_FIRSTHDR(&sent);
      head->cmsg_level = SOL_SOCKET;
      head->cmsg_type = SCM_RIGHTS;
      head->cmsg_len = CMSG_LEN(fds.size_bytes());
      std::memcpy(CMSG_DATA(head), fds.data(), fds.size_bytes());
    }
    const ssize_t n = sendmsg(fd_.get(), &sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) {
      bytes.remove_prefix(static_cast<size_t>(n));
      fds = {};
    } else if (errno == EAGAIN) {
      TRY(wait(POLLOUT, deadline));
    } else if (errno == EPIPE || errno == ECONNRESET) {
      return fail(hung_up());
    } else if (errno != EINTR) {
      return fail_errno("sendmsg", errno);
    }
  }
  return {};
}

Result<std::string> Channel::take(size_t count, std::vector<Fd>& fds, const Deadline& deadline) {
  std::string bytes;
  while (bytes.size() < count) {
    TRY(wait(POLLIN, deadline));
    std::string part(count - bytes.size(), '\0');
    iovec piece{part.data(), part.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(k_max_fds * sizeof(int))];
    msghdr got{};
    got.msg_iov = &piece;
    got.msg_iovlen = 1;
    got.msg_control = control;
    got.msg_controllen = sizeof control;
    const ssize_t n = recvmsg(fd_.get(), &got, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n == 0 || (n < 0 && errno == ECONNRESET)) return fail(hung_up());
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (n < 0) return fail_errno("recvmsg", errno);
    for (cmsghdr* head = CMSG_FIRSTHDR(&got); head != nullptr; head = CMSG_NXTHDR(&got, head)) {
      if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) continue;
      for (size_t at = 0; at + sizeof(int) <= head->cmsg_len - CMSG_LEN(0); at += sizeof(int)) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(head) + at, sizeof fd);
        fds.emplace_back(fd);
      }
    }
    bytes.append(part.data(), static_cast<size_t>(n));
  }
  return bytes;
}

Result<Received> Channel::receive(const Deadline& deadline) {
  if (!fd_) return fail(Code::wrong_state, "not connected");
  Received message;
  TRY_ASSIGN(const std::string head, take(sizeof(Header), message.fds, deadline));
  Header header;
  std::memcpy(&header, head.data(), sizeof header);
  if (header.size > k_max_payload)
    return fail(Code::invalid, fmt::format("the server announces {} bytes", header.size));
  message.request = header.request;
  message.flags = header.flags;
  TRY_ASSIGN(message.payload, take(header.size, message.fds, deadline));
  return message;
}

Result<> Channel::wait_closed(const Deadline& deadline) {
  while (true) {
    std::vector<Fd> dropped;
    auto byte = take(1, dropped, deadline);
    if (byte) continue;
    if (byte.error().code == Code::server_dead) return {};
    return fail(byte.error());
  }
}

}  // namespace pv::test::vhost
