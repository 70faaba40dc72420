// SPDX-License-Identifier: MIT
#include "serve/client.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "serve/control_ops.hpp"

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

tl::unexpected<Error> DiskClient::named(Error error) const {
  error.message = fmt::format("{}: {}", name_, error.message);
  return fail(std::move(error));
}

json DiskClient::in_name(json request) const {
  if (!host_key_.empty()) request["host_key"] = host_key_;
  return request;
}

Result<json> DiskClient::call(const json& request) {
  auto reply = line_.call(in_name(request), Deadline::in_ns(call_ns_));
  if (!reply) return named(reply.error());
  return reply;
}

Result<> DiskClient::ask(uint64_t offset, uint64_t length) {
  return line_.send_line(
      in_name({{"op", "read"}, {"offset_bytes", offset}, {"length_bytes", length}, {"raw", true}}),
      Deadline::in_ns(call_ns_));
}

Result<> DiskClient::read(uint64_t offset, uint64_t length, const Take& take) {
  const auto piece = [&](uint64_t at) { return std::min(k_max_host_io, length - at); };
  if (length == 0) return {};
  TRY(ask(offset, piece(0)));
  for (uint64_t at = 0; at < length; at += piece(at)) {
    const uint64_t next = at + piece(at);
    if (next < length) TRY(ask(offset + next, piece(next)));
    auto reply = line_.read_json(Deadline::in_ns(call_ns_));
    if (!reply) return named(reply.error());
    if (const json* error = find(*reply, "error")) return named(error_from_json(*error));
    auto bytes = line_.read_bytes(get_u64(*reply, "raw_bytes"), Deadline::in_ns(call_ns_));
    if (!bytes) return named(bytes.error());
    TRY(take(*bytes));
  }
  return {};
}

Result<json> DiskClient::write(uint64_t offset, std::string_view bytes, bool fua) {
  const json request = {{"op", "write"},
                        {"offset_bytes", offset},
                        {"length_bytes", bytes.size()},
                        {"fua", fua},
                        {"raw_bytes", bytes.size()}};
  const Deadline deadline = Deadline::in_ns(call_ns_);
  const std::string header = to_line(in_name(request)) + "\n";
  for (const std::string_view part : {std::string_view(header), bytes})
    if (auto sent = line_.send(part, deadline); !sent) return named(sent.error());
  auto reply = line_.read_json(deadline);
  if (!reply) return named(reply.error());
  if (const json* error = find(*reply, "error")) return named(error_from_json(*error));
  return reply;
}

}  // namespace pv::serve
