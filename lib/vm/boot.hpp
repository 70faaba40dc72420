// SPDX-License-Identifier: MIT
// Making, booting and ending VMs, as the commands do it: under the VM's lock, each with a deadline.
#pragma once

#include "base/json.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"
#include "vm/argv.hpp"
#include "vm/profile/config.hpp"

namespace pv::vm {

// A new VM in the current scope; nothing is started. Its `vm` document.
Result<json> create_vm(const RunDir& run, const std::string& name, const VmOptions& options);

// Boots it: returns when the guest agent has answered. Its `vm` document with "boot_ms". On failure
// nothing is left running and the VM is `created` as before; Code::boot_timeout and
// Code::guest_died carry the end of the console.
Result<json> boot_vm(const RunDir& run, const Object& vm, const VmOptions& options,
                     uint64_t timeout_ns);

// The command line of QEMU: the one that runs, or the one that boot would use.
Result<json> vm_argv(const RunDir& run, const Object& vm);

// Ends QEMU (by QMP, then by force), closes the VM's disks and forgets the VM. Idempotent. Its
// `vm` document, with "closed" and "forced".
Result<json> close_vm(const RunDir& run, const Object& vm, const Deadline& deadline);

}  // namespace pv::vm
