// SPDX-License-Identifier: MIT
// From a machine to the processes that are it: what boot and restore have in common.
#pragma once

#include "base/result.hpp"
#include "vm/argv.hpp"

namespace pv::vm {

struct BootPlan;

// Tells the supervisor where the machine has its disks and cards.
void place_devices(const Machine& machine, BootPlan& plan);

// Starts the VM's supervisor, and QEMU with it, and waits until it reports. On failure nothing is
// left running.
Result<> supervise(BootPlan plan);

}  // namespace pv::vm
