// SPDX-License-Identifier: MIT
#include "target/disk_session.hpp"

#include "base/json.hpp"
#include "base/units.hpp"

namespace pv::target {

void add_disk_flag(cli::Verb& verb, std::string& disk) {
  verb.option("--disk", disk, "NAME", "The disk (default: the one of the document on stdin)");
}

Result<DiskSession> open_session(cli::Context& context, const std::string& disk,
                                 uint64_t default_ns) {
  TRY_ASSIGN(DiskTarget at, disk_target(context, disk));
  TRY_ASSIGN(const Deadline deadline, context.deadline(default_ns));
  TRY_ASSIGN(serve::DiskClient client, serve::DiskClient::connect(at.disk, deadline));
  return DiskSession{std::move(at), std::move(client)};
}

json disk_reference(const Object& disk) {
  return {{"id", disk.name},
          {"scope", disk.scope},
          {"vm", disk.owner.empty() ? json(nullptr) : json(disk.owner)}};
}

Result<json> parse_tickets(const std::vector<std::string>& words) {
  json tickets = json::array();
  for (const std::string& text : words) {
    TRY_ASSIGN(const uint64_t ticket, parse_count("ticket", text));
    tickets.push_back(ticket);
  }
  return tickets;
}

}  // namespace pv::target
