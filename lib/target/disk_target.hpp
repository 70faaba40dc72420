// SPDX-License-Identifier: MIT
// From what a person typed, or a document said, to the disk that a verb is about. Used by the
// commands only.
#pragma once

#include <string>

#include "base/run_dir.hpp"
#include "cli/command.hpp"

namespace pv::target {

struct DiskTarget {
  RunDir run;
  Object disk;
};

// By name; without one, the `disk` of the input document, else the only disk of its `vm`.
Result<DiskTarget> disk_target(cli::Context& context, const std::string& name);

// What `disk` of an outgoing document is to say now: the server's own words where it is alive.
Result<json> live_disk_document(const Object& disk, const Deadline& deadline);

// The same from a reply of its server that has `disk` in it (or from none, when it is not alive).
Result<json> disk_document_from(const Object& disk, const json& reply);

constexpr uint64_t k_default_timeout_ns = 30 * k_ns_per_s;

}  // namespace pv::target
