// SPDX-License-Identifier: MIT
// What a VM is doing right now, asked of its supervisor, its disks' servers and /proc.
#pragma once

#include "base/json.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"

namespace pv::target {

// The `vm` document with, for one that runs: agent, open_files, open_streams and who opened them
// (streams), disk_requests in flight, quiescent (none of all that), rss_bytes, cpu_ms, vcpus. A VM
// that ends just now is shown as it is then.
Result<json> live_document(const RunDir& run, const Object& vm);

}  // namespace pv::target
