// SPDX-License-Identifier: MIT
#include "base/socket.hpp"

#include <cerrno>
#include <cstring>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"

namespace pv {
namespace {

constexpr size_t k_max_line = 64 << 20;

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() > k_max_socket_path)
    return fail(Code::invalid,
                fmt::format("socket path '{}' is too long ({} bytes, the limit is {}); set a "
                            "shorter PV_RUN_DIR",
                            path, path.size(), k_max_socket_path));
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

Result<> wait_for(int fd, short events, const Deadline& deadline) {
  pollfd p{fd, events, 0};
  while (true) {
    const int n = poll(&p, 1, deadline.left_ms());
    if (n > 0) return {};
    if (n == 0) return fail(Code::timeout, "no answer in time");
    if (errno != EINTR) return fail_errno("poll", errno);
  }
}

}  // namespace

Result<Fd> listen_unix(const std::string& path) {
  TRY_ASSIGN(const sockaddr_un address, address_of(path));
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno("socket", errno);
  const mode_t old = umask(0177);
  const int bound = bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const int err = errno;
  umask(old);
  if (bound < 0) return fail_errno("cannot listen on " + path, err);
  if (listen(fd.get(), 64) < 0) return fail_errno("cannot listen on " + path, errno);
  return fd;
}

Result<Fd> connect_unix(const std::string& path, const Deadline& deadline) {
  TRY_ASSIGN(const sockaddr_un address, address_of(path));
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return fail_errno("socket", errno);
  // A full backlog makes a blocking connect() wait; SO_SNDTIMEO bounds that wait (unix(7)).
  const uint64_t us = deadline.left_ns() / 1000 + 1;
  const timeval limit{static_cast<time_t>(us / 1'000'000),
                      static_cast<suseconds_t>(us % 1'000'000)};
  setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) {
    if (errno == EAGAIN) return fail(Code::timeout, path + " does not accept connections in time");
    return fail_errno("cannot connect to " + path, errno);
  }
  const timeval unlimited{};
  setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &unlimited, sizeof unlimited);
  return fd;
}

Fd accept_unix(int listener) {
  return Fd(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

pid_t peer_pid(int fd) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) < 0) return 0;
  return credentials.pid;
}

Result<LineClient> LineClient::connect(const std::string& path, const Deadline& deadline) {
  TRY_ASSIGN(Fd fd, connect_unix(path, deadline));
  return LineClient(std::move(fd));
}

Result<> LineClient::send(std::string_view bytes, const Deadline& deadline) {
  while (!bytes.empty()) {
    TRY(wait_for(fd_.get(), POLLOUT, deadline));
    const ssize_t n = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
      return fail(Code::server_dead, "the server has closed the connection");
    if (n < 0) return fail_errno("send", errno);
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return {};
}

Result<> LineClient::send_line(const json& message, const Deadline& deadline) {
  return send(to_line(message) + "\n", deadline);
}

Result<> LineClient::fill(const Deadline& deadline) {
  TRY(wait_for(fd_.get(), POLLIN, deadline));
  char chunk[65536];
  const ssize_t n = recv(fd_.get(), chunk, sizeof chunk, 0);
  if (n < 0 && errno == EINTR) return {};
  if (n <= 0) return fail(Code::server_dead, "the server has closed the connection");
  buffer_.append(chunk, static_cast<size_t>(n));
  return {};
}

Result<std::string> LineClient::read_line(const Deadline& deadline) {
  size_t searched = 0;
  while (true) {
    const size_t end = buffer_.find('\n', searched);
    if (end != std::string::npos) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return line;
    }
    searched = buffer_.size();
    if (searched > k_max_line) return fail(Code::invalid, "a line from the server is too long");
    TRY(fill(deadline));
  }
}

Result<json> LineClient::read_json(const Deadline& deadline) {
  TRY_ASSIGN(const std::string line, read_line(deadline));
  return parse_json(line);
}

Result<std::string> LineClient::read_bytes(size_t count, const Deadline& deadline) {
  std::string bytes = buffer_.substr(0, count);
  buffer_.erase(0, bytes.size());
  size_t have = bytes.size();
  bytes.resize(count);
  while (have < count) {
    TRY(wait_for(fd_.get(), POLLIN, deadline));
    const ssize_t n = recv(fd_.get(), bytes.data() + have, count - have, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return fail(Code::server_dead, "the server has closed the connection");
    have += static_cast<size_t>(n);
  }
  return bytes;
}

Result<json> LineClient::call(const json& request, const Deadline& deadline) {
  TRY(send_line(request, deadline));
  TRY_ASSIGN(json reply, read_json(deadline));
  if (const json* error = find(reply, "error")) return fail(error_from_json(*error));
  return reply;
}

}  // namespace pv
