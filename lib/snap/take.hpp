// SPDX-License-Identifier: MIT
// Taking a snapshot: the VM stands still, its memory, its devices and all its disks are put down,
// and it goes on. What may take its time, hashes and stable storage, comes after that. For one
// command at a time, under the VM's lock.
#pragma once

#include <string>

#include "base/clock.hpp"
#include "base/json_fwd.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"
#include "snap/bundle.hpp"

namespace pv::snap {

struct TakeOptions {
  bool stop = false;    // the VM does not go on: it is shut down
  bool freeze = false;  // its file systems are frozen meanwhile, by its agent
};

// Takes one of a VM that is booted or paused, into `dir`, which must not exist. Nothing is there,
// and the VM goes on, when it fails. Code::streams_open names who keeps the guest busy,
// Code::not_mediated a disk that no server of ours serves.
Result<Bundle> take(const RunDir& run, const Object& vm, const std::string& dir,
                    const TakeOptions& options, const Deadline& deadline);

}  // namespace pv::snap
