// SPDX-License-Identifier: MIT
// A command's conversation with a disk server.
#pragma once

#include <string>

#include "base/clock.hpp"
#include "base/json_fwd.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"
#include "base/socket.hpp"

namespace pv::serve {

class DiskClient {
 public:
  // Code::detached for a disk that was taken out, Code::server_dead when its server has gone.
  static Result<DiskClient> connect(const Object& disk, const Deadline& deadline);

  Result<json> call(const json& request);

  // One request of at most k_max_host_io bytes; bytes, not base64, on this side.
  Result<std::string> read(uint64_t offset, uint64_t length);
  Result<json> write(uint64_t offset, std::string_view bytes, bool fua);

 private:
  DiskClient(LineClient line, std::string name, const Deadline& deadline)
      : line_(std::move(line)), name_(std::move(name)), call_ns_(deadline.left_ns()) {}
  LineClient line_;
  std::string name_;
  uint64_t call_ns_;  // for each call: a long transfer is many
};

}  // namespace pv::serve
