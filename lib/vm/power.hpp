// SPDX-License-Identifier: MIT
// A power cut: one instant at which a VM and all its disks, or some disks that no guest uses, lose
// what was not on stable storage. Called by a command; the work is done by the disks' servers
// (serve/power.hpp) and the VM's supervisor.
#pragma once

#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/json_fwd.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"

namespace pv::vm {

struct PowerCut {
  std::string survivors = "none";  // none, all, random, listed
  uint64_t seed = 0;
  uint64_t atomic_bytes = 0;  // 0: the sector of each disk
  struct Range {
    std::string disk;  // "vda" or "v/vda"
    uint64_t offset, length;
  };
  std::vector<Range> keep;
};

// Cuts the power of a running VM, which is `shutdown` then, its disks still served. A list with an
// object for each disk. Nothing has happened when a disk cannot be cut as asked.
Result<json> cut_power(const RunDir& run, const Object& vm, const PowerCut& cut,
                       const Deadline& deadline);

// The same for disks without a running VM.
Result<json> cut_power(const RunDir& run, std::vector<Object> disks, const PowerCut& cut,
                       const Deadline& deadline);

}  // namespace pv::vm
