// SPDX-License-Identifier: MIT
// A power cut: one instant at which a VM and all its disks, or some disks that no guest uses, lose
// what was not on stable storage.
#pragma once

#include <vector>

#include "serve/power_cut.hpp"

namespace pv::target {

// Cuts the power of a running VM, which is `shutdown` then, its disks still served. A list with an
// object for each disk. Nothing has happened when a disk cannot be cut as asked.
Result<json> cut_power(const RunDir& run, const Object& vm, const serve::PowerCut& cut,
                       const Deadline& deadline);

// The same for disks that no running VM uses.
Result<json> cut_power(const RunDir& run, const std::vector<Object>& disks,
                       const serve::PowerCut& cut, const Deadline& deadline);

}  // namespace pv::target
