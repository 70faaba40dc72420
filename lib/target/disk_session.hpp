// SPDX-License-Identifier: MIT
// A conversation with the server of the disk that a verb is about. Used by the commands only.
#pragma once

#include <string>
#include <vector>

#include "serve/client.hpp"
#include "target/disk_target.hpp"

namespace pv::target {

// --disk: its name.
void add_disk_flag(cli::Verb& verb, std::string& disk);

struct DiskSession {
  DiskTarget at;
  serve::DiskClient client;
};
// --timeout, or `default_ns`, bounds each call.
Result<DiskSession> open_session(cli::Context& context, const std::string& disk,
                                 uint64_t default_ns = k_default_timeout_ns);

// {"id","scope","vm"}: what a later stage needs to find the disk again.
json disk_reference(const Object& disk);

// Numbers of held requests.
Result<json> parse_tickets(const std::vector<std::string>& words);

}  // namespace pv::target
