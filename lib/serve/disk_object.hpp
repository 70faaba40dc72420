// SPDX-License-Identifier: MIT
// Disks as objects of the run directory: finding them by the name a person types, reading what
// state they are in, and ending them. The process behind a disk is its server (serve/server.hpp).
#pragma once

#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"
#include "base/units.hpp"

namespace pv::serve {

// Where a disk with the transport vhost-user is served besides NBD.
constexpr const char* k_vhost_socket = "vhost.sock";
// Left by a server whose last flush failed: how.
constexpr const char* k_lost_file = "lost";
constexpr const char* k_flush_late = "did not end in time";
// ... or one of whose layers could not go on with what it writes down: which, and why.
constexpr const char* k_broken_file = "broken";
// Who serves it, from the first moment on; state.json says so once the disk is up.
constexpr const char* k_starting_file = "starting";
// For a server to end, and to write a cache back, at least.
constexpr uint64_t k_end_grace_ns = 10 * k_ns_per_s;

// "vda" where that is clear, else "v/vda". Code::no_such_disk lists the known ids; a name that
// several VMs use is Code::usage and lists the choices.
Result<Object> find_disk(const RunDir& run, std::string_view name);

// The disks of one VM, in the scope of the VM, sorted by id.
std::vector<Object> disks_of_vm(const RunDir& run, const Object& vm);

// The `disk` object of a document: what state.json says, with `state` "dead" when the server's
// process is gone. Internal keys are left out.
Result<json> disk_document(const Object& disk);

// Changes these keys of state.json, which a server and commands may do at the same time. Under a
// lock of its own: who holds Object::lock() may wait for a server that is being started again.
Result<> save_keys(const Object& disk, const json& changed);

// What a server that has ended leaves to be said, once; both "" where all is well.
struct LastWords {
  std::string flush;   // what has become of the last flush when what a cache held is lost
  std::string broken;  // what a layer did not write down, such as "its log d.log is broken (EFBIG)"

  // Code::io, for a disk that was closed or detached (`how`) all the same; or nothing.
  Result<> told(const Object& disk, std::string_view how) const;
};

// Ends the server, and who would start it again: SIGTERM, then SIGKILL.
Result<LastWords> end_server(const Object& disk, uint64_t grace_ns);

// Ends the server and removes the object. Idempotent. An error of LastWords::told() when it is
// closed all the same.
Result<> close_disk(const RunDir& run, const Object& disk, uint64_t grace_ns = k_end_grace_ns);

}  // namespace pv::serve
