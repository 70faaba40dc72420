// SPDX-License-Identifier: MIT
// Snapshots of a VM, as far as its machine goes: a command's side of taking one (the work is done
// by its supervisor, supervisor/snapshots.hpp), and a VM that begins where one was taken. The
// bundle around it, the disks and what may be restored where are lib/snap's matter.
#pragma once

#include <string>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"
#include "base/socket.hpp"
#include "vm/supervisor/supervisor.hpp"

namespace pv::vm {

// One snapshot being taken. When it is destroyed before end() the VM goes on by itself.
class Taking {
 public:
  static Result<Taking> begin(const Object& vm, const Deadline& deadline);

  // The guest's agent freezes its file systems, until thaw() or until this is gone.
  Result<> freeze();
  Result<> thaw();
  // Nothing is in the way, and `dir` has room for the memory: flushes of the guest, by disk.
  // Code::streams_open names who keeps the guest busy.
  Result<json> check(const std::string& dir);
  // The CPUs stand still; the same counts.
  Result<json> stop();
  // `state` is in the directory: "devices", "was_paused", "ram_from". QEMU flushes its disks here
  // and not afterwards.
  Result<json> save();
  // `ram` too, when it is finished; the disks do their part meanwhile.
  Result<> start_ram();
  Result<> finish_ram();
  // The CPUs go on: how long they stood still ("paused_ms").
  Result<json> end();

 private:
  Taking(const Object& vm, LineClient line, const Deadline& deadline)
      : vm_(vm), line_(std::move(line)), deadline_(deadline) {}
  Result<> send(json request);
  Result<json> hear();
  Result<json> call(json request);

  Object vm_;
  LineClient line_;
  Deadline deadline_;
};

struct RestoreOptions {
  bool paused = false;
  bool host_clock = false;  // the guest's clock is set to the host's
  bool reseed = false;      // fresh entropy, a machine id and a host name of its own
  uint64_t timeout_ns = 0;
};

// Starts the machine of a snapshot as `vm`, whose disks are served already, under their old ids.
// `saved` is the VM's state.json as it was, `devices` what save() said. `lock` is the
// VM's. Returns when the guest's agent has answered; on failure nothing is left running.
Result<> restore_machine(const RunDir& run, const Object& vm, const LockFile& lock,
                         const json& saved, const json& devices, const RestorePlan& plan,
                         const RestoreOptions& options);

}  // namespace pv::vm
