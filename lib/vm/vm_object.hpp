// SPDX-License-Identifier: MIT
// VMs as objects of the run directory. state.json belongs to whoever holds the object's lock: the
// commands, and the supervisor while it boots, when it holds the lock too. What the supervisor
// has to say later, that QEMU has ended and how, goes to end.json.
//
//   state.json  name scope profile state config disks[] nics[] and, once booted: accel
//               memory_bytes cpus argv ports boot_ms booted_ns qemu{pid,start_ticks}
//               supervisor{pid,start_ticks}
//   paused      is there while the guest's CPUs are stopped
//   end.json    state ("dead", "shutdown") reason exit_status|signal stderr console
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"

namespace pv::vm {

constexpr size_t k_console_tail_bytes = 4096;
constexpr const char* k_end_file = "end.json";
constexpr const char* k_control_socket = "sup.sock";
constexpr const char* k_paused_mark = "paused";  // there while the guest's CPUs are stopped
constexpr const char* k_events_log = "events.jsonl";
constexpr const char* k_qemu_log = "qemu.log";
constexpr const char* k_supervisor_log = "sup.log";

// Code::no_such_vm lists the names that there are.
Result<Object> find_vm(const RunDir& run, std::string_view name);

// `code` for a name of which there is no object of this kind; `what` is what people call it, and
// the names that there are follow.
Error no_such_object(Code code, const RunDir& run, std::string_view kind, std::string_view what,
                     std::string_view name);

// The VM's lock, with the VM still there once it is held (a close may have come first).
Result<LockFile> lock_vm(const Object& vm, const Deadline& deadline);

// created, booted, paused, shutdown or dead: what state.json says, corrected by what has happened
// to the processes since.
std::string actual_state(const Object& vm, const json& state);

// Whether QEMU runs in this state.
bool is_running(std::string_view state);

// The `vm` object of a document. Fast: files and /proc only, the supervisor is not asked.
Result<json> vm_document(const Object& vm);
json vm_document(const Object& vm, const json& state);

// Writes down in `state` that this process restores the VM. What is left when it is killed is
// `dead` to everybody, and can be restored again.
void mark_restoring(json& state);
bool restore_interrupted(const json& state);

// Writes down in `state` that the VM is `now` and that nothing is left of its last boot.
void forget_boot(json& state, std::string_view now);

// Code::wrong_state, with keys `state` and `allowed`, unless the VM is in one of `allowed`.
// `verb` is what the person wanted.
Result<> require_state(const Object& vm, const json& state, std::string_view verb,
                       const std::vector<std::string>& allowed);

// Why QEMU is no longer there, as Code::guest_died with key `console`.
Error guest_died_error(const Object& vm, std::string_view during);

}  // namespace pv::vm
