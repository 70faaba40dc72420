// SPDX-License-Identifier: MIT
// The VM's part of a power cut. The caller holds the VM's lock and has frozen its disks.
#pragma once

#include "base/clock.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"

namespace pv::vm {

// Code::not_mediated when QEMU has opened a drive itself.
Result<> check_drives(const Object& vm, const Deadline& deadline);

// Kills QEMU; the VM is `shutdown` when this returns.
Result<> kill_machine(const Object& vm, const Deadline& deadline);

}  // namespace pv::vm
