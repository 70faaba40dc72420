// SPDX-License-Identifier: MIT
// Unix stream sockets, and the JSON Lines conversation that every control socket of ours speaks:
// one request line, one reply line, each optionally followed by raw bytes announced in the line.
#pragma once

#include <string>
#include <string_view>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "base/json.hpp"
#include "base/result.hpp"

namespace pv {

// Longest usable socket path, sun_path less its terminator (unix(7)).
constexpr size_t k_max_socket_path = 107;

// Binds and listens, mode 0600. The path must not exist; longer ones are Code::invalid.
Result<Fd> listen_unix(const std::string& path);
Result<Fd> connect_unix(const std::string& path, const Deadline& deadline);
// Next connection of a non-blocking listener; an empty Fd when there is none.
Fd accept_unix(int listener);
// Identity of the process at the other end (SO_PEERCRED).
pid_t peer_pid(int fd);

// A client's side of a control socket. Blocking, with a deadline on every wait.
class LineClient {
 public:
  static Result<LineClient> connect(const std::string& path, const Deadline& deadline);
  explicit LineClient(Fd fd) : fd_(std::move(fd)) {}

  Result<> send(std::string_view bytes, const Deadline& deadline);
  Result<> send_line(const json& message, const Deadline& deadline);
  // Next line without its newline, at most 64 MiB. Code::server_dead when the peer is gone.
  Result<std::string> read_line(const Deadline& deadline);
  Result<json> read_json(const Deadline& deadline);
  Result<std::string> read_bytes(size_t count, const Deadline& deadline);

  // One request and its reply; a reply {"error":…} becomes that error.
  Result<json> call(const json& request, const Deadline& deadline);

  int fd() const { return fd_.get(); }
  // The connection itself, before anything was received on it.
  Fd release() { return std::move(fd_); }

 private:
  Result<> fill(const Deadline& deadline);
  Fd fd_;
  std::string buffer_;
};

}  // namespace pv
