// SPDX-License-Identifier: MIT
// From a machine to the processes that are it: what boot and restore have in common.
#pragma once

#include "base/file.hpp"
#include "base/result.hpp"
#include "vm/argv.hpp"

namespace pv::vm {

struct BootPlan;

// Tells the supervisor where the machine has its disks and cards, and what its QEMU can do.
void place_devices(const Machine& machine, BootPlan& plan);

// Starts the VM's supervisor, and QEMU with it, and waits until it reports. On failure nothing is
// left running. `lock` is the VM's; the supervisor holds it too until it has reported, so that when
// we are killed nobody takes the VM before it has cleared away.
Result<> supervise(BootPlan plan, const LockFile& lock);

}  // namespace pv::vm
