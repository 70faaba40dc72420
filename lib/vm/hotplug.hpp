// SPDX-License-Identifier: MIT
// Plugging disks into a running VM and taking them out. The caller holds the VM's lock; which slot
// a disk sits in is the supervisor's knowledge, state.json is not touched here.
#pragma once

#include <string>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"

namespace pv::vm {

// Plugs a disk in and waits until the guest has it, found by its serial. `disk_state` holds id,
// serial, sector sizes and read_only. {"guest_path":"/dev/vdb","slot":1}; guest_path is null when
// no agent answers in the guest. On Code::timeout the disk has been taken out again.
Result<json> plug_disk(const Object& vm, const json& disk_state, const std::string& nbd_socket,
                       const Deadline& deadline);

// Whether others can map the VM's memory, as a vhost-user disk needs it: Code::unsupported is what
// plug_disk() and a boot say where they cannot. Of one that has not booted, what can be known.
Result<bool> shares_memory(const Object& vm, const json& state, const Deadline& deadline);

// Takes a disk out and waits until the guest has let go of it: {"guest_released":true}, or false
// with "why" when it did not; the disk then stays plugged in, and a release that comes later is
// still completed by the supervisor.
Result<json> unplug_disk(const Object& vm, const std::string& disk_id, const Deadline& deadline);

// Makes QEMU take notice that the disk's server has changed the size, and waits until the guest
// has:
// {"guest_bytes"}, null without an agent and in a paused VM. The server has hung up on QEMU before,
// or told it.
Result<json> resize_disk(const Object& vm, const json& disk_state, uint64_t size,
                         const Deadline& deadline);

// Takes the disc out of a CD drive. Code::wrong_state when the guest has locked it, and not
// `force`.
Result<> eject_disk(const Object& vm, const std::string& disk_id, bool force,
                    const Deadline& deadline);

}  // namespace pv::vm
