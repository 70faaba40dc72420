// SPDX-License-Identifier: MIT
#include "verbs.hpp"

namespace pv::faultcmd {

void add_disk_flag(cli::Verb& verb, std::string& disk) {
  verb.option("--disk", disk, "NAME", "The disk (default: the one of the document on stdin)");
}

Result<Session> open_session(cli::Context& context, const std::string& disk, uint64_t default_ns) {
  TRY_ASSIGN(target::DiskTarget at, target::disk_target(context, disk));
  TRY_ASSIGN(const Deadline deadline, context.deadline(default_ns));
  TRY_ASSIGN(serve::DiskClient client, serve::DiskClient::connect(at.disk, deadline));
  return Session{std::move(at), std::move(client)};
}

json disk_reference(const Object& disk) {
  return {{"id", disk.name},
          {"scope", disk.scope},
          {"vm", disk.owner.empty() ? json(nullptr) : json(disk.owner)}};
}

}  // namespace pv::faultcmd
