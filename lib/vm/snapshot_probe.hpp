// SPDX-License-Identifier: MIT
// Whether snapshots can be taken with a QEMU: tried on a machine that never runs.
#pragma once

#include <string>

#include "base/clock.hpp"
#include "base/result.hpp"
#include "vm/machine.hpp"

namespace pv::vm {

// Fails with what the QEMU cannot do. Takes a fraction of a second.
Result<> try_snapshot(const Qemu& qemu, const std::string& accel, const Deadline& deadline);

}  // namespace pv::vm
