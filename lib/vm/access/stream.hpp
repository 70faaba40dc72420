// SPDX-License-Identifier: MIT
// A client's side of data ports (data_ports.hpp): a lease, its sockets, and a command in the guest
// whose streams they are. Blocking, with poll(2); used by the commands. When it is destroyed, or
// its process dies, the supervisor kills the command in the guest.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/run_dir.hpp"
#include "base/socket.hpp"

namespace pv::vm {

struct LeasedPort {
  size_t nr = 0;
  Fd fd;
};

class GuestStream {
 public:
  // Leases `count` ports and connects to them. `kind` is what `info` shows: run, put, get, tail.
  static Result<GuestStream> open(const Object& vm, std::string_view kind, size_t count);

  LeasedPort& port(size_t index) { return ports_[index]; }
  const LeasedPort& port(size_t index) const { return ports_[index]; }
  // "/bin/sh -c script args…" begins in the guest, to last at most `timeout_ns`.
  Result<> start(const std::string& script, const std::vector<std::string>& args,
                 const std::vector<std::string>& env, uint64_t timeout_ns);
  // Readable when the command has ended.
  int control() const { return client_.fd(); }
  // What guest-exec-status says of the command that has ended; everything that it wrote is in the
  // sockets by then.
  Result<json> status();
  // Asks the supervisor, to tell a guest that is slow from one that nobody can ask.
  bool agent_is_ready() const;

 private:
  GuestStream(const Object& vm, LineClient client) : vm_(vm), client_(std::move(client)) {}
  Object vm_;
  LineClient client_;
  std::vector<LeasedPort> ports_;
};

struct StreamCommand {
  std::vector<std::string> argv;
  std::vector<std::string> env;
  std::string directory;  // "": the agent's own
  std::string user;       // "": root
  const char* kind = "run";
  int input = -1;   // what the command reads as it comes; -1: nothing
  int output = -1;  // where output goes in the end: the command is killed when nobody reads it
  uint64_t timeout_ns = 0;
};

enum class Stream { out, err };
using Sink = std::function<Result<>(Stream stream, std::string_view bytes)>;

// Runs a command in the guest; `sink` gets its output as it comes. The `run` object of a document,
// without output.
Result<json> stream_in_guest(const Object& vm, const StreamCommand& command, const Sink& sink);

}  // namespace pv::vm
