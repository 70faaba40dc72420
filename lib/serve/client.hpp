// SPDX-License-Identifier: MIT
// A command's conversation with a disk server.
#pragma once

#include <functional>
#include <string>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"
#include "base/socket.hpp"

namespace pv::serve {

class DiskClient {
 public:
  // Code::detached for a disk that was taken out, Code::server_dead when its server has gone.
  static Result<DiskClient> connect(const Object& disk, const Deadline& deadline);

  // The host in whose name every call is made, for reservations.
  void set_host_key(std::string key) { host_key_ = std::move(key); }

  Result<json> call(const json& request);

  // In requests of at most k_max_host_io bytes; the next one is on its way while `take` has the
  // bytes of the one before.
  using Take = std::function<Result<>(const std::string& bytes)>;
  Result<> read(uint64_t offset, uint64_t length, const Take& take);
  // One request of at most k_max_host_io bytes.
  Result<json> write(uint64_t offset, std::string_view bytes, bool fua);

  // The connection, for a conversation of one's own.
  Fd release() { return line_.release(); }

 private:
  json in_name(json request) const;
  Result<> ask(uint64_t offset, uint64_t length);
  tl::unexpected<Error> named(Error error) const;
  DiskClient(LineClient line, std::string name, const Deadline& deadline)
      : line_(std::move(line)), name_(std::move(name)), call_ns_(deadline.left_ns()) {}
  LineClient line_;
  std::string name_;
  std::string host_key_;
  uint64_t call_ns_;  // for each call: a long transfer is many
};

}  // namespace pv::serve
