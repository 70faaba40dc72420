// SPDX-License-Identifier: MIT
#include "serve/client.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/text.hpp"

namespace pv::serve {

Result<DiskClient> DiskClient::connect(const Object& disk, const Deadline& deadline) {
  auto state = disk.load();
  if (!state) return fail(Code::no_such_disk, fmt::format("disk '{}' is gone", disk.display()));
  const std::string said = get_string(*state, "state");
  if (said == "detached")
    return fail(Code::detached, fmt::format("disk '{}' is detached", disk.display()));
  if (!is_alive(process_from_json(*state)))
    return fail(Code::server_dead,
                fmt::format("the server of disk '{}' is dead; close it", disk.display()));
  TRY_ASSIGN(LineClient line, LineClient::connect(disk.path("ctl.sock"), deadline));
  return DiskClient(std::move(line), disk.display(), deadline);
}

Result<json> DiskClient::call(const json& request) {
  auto reply = line_.call(request, Deadline::in_ns(call_ns_));
  if (reply) return reply;
  Error error = reply.error();
  error.message = fmt::format("{}: {}", name_, error.message);
  return fail(error);
}

Result<std::string> DiskClient::read(uint64_t offset, uint64_t length) {
  TRY_ASSIGN(const json reply,
             call({{"op", "read"}, {"offset_bytes", offset}, {"length_bytes", length}}));
  return base64_decode(get_string(reply, "b64"));
}

Result<json> DiskClient::write(uint64_t offset, std::string_view bytes, bool fua) {
  return call({{"op", "write"},
               {"offset_bytes", offset},
               {"length_bytes", bytes.size()},
               {"fua", fua},
               {"b64", base64_encode(bytes)}});
}

}  // namespace pv::serve
