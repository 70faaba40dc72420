// SPDX-License-Identifier: MIT
// Verbs that take a booted VM from one state to another. Each holds the VM's lock while it works,
// refuses a VM in the wrong state with Code::wrong_state, and returns the `vm` document.
//
//   created --boot--> booted <--pause, resume--> paused
//   booted --reset--> booted        booted --power_button--> shutdown
//   any --shutdown--> shutdown --boot--> booted
#pragma once

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"

namespace pv::vm {

// Stops the guest's CPUs; they do not run any more when this returns.
Result<json> pause_vm(const Object& vm, const Deadline& deadline);
Result<json> resume_vm(const Object& vm, const Deadline& deadline);

// A warm reset: the guest boots anew in the same QEMU, its disks keep what was written. Returns
// when its agent answers again ("reset_ms"); Code::boot_timeout and Code::guest_died as of a boot,
// with the end of the console, and then the VM goes on as it is.
Result<json> reset_vm(const Object& vm, const Deadline& deadline);

// The ACPI power button, and the end that the guest then makes ("graceful":true). One that does not
// in time is Code::timeout and goes on running, or with `force` is ended ("graceful":false).
Result<json> press_power_button(const Object& vm, bool force, const Deadline& deadline);

// Ends QEMU, by force when it does not end within 2 s ("forced"). The VM is kept, with its disks.
Result<json> shutdown_vm(const Object& vm, const Deadline& deadline);

// Ends supervisor and QEMU in whatever state they are; true when force was needed. `why` is what
// the VM will say of its end. The caller holds the lock.
Result<bool> end_processes(const Object& vm, const json& state, std::string_view why);

}  // namespace pv::vm
