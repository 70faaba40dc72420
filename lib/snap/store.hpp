// SPDX-License-Identifier: MIT
// Where snapshots are: in the scope, under a name, until the scope is closed; or wherever a path
// says, until they are deleted.
#pragma once

#include <string>

#include "base/json_fwd.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"
#include "snap/bundle.hpp"

namespace pv::snap {

// The directory that a word on the command line means: a path when it has a slash or is a
// directory here, else a name in the scope. Code::no_such_snapshot lists the names that there are.
Result<std::string> find_snapshot(const RunDir& run, const std::string& word);

// A new place in the scope for a snapshot of this VM; the bundle goes to its path k_bundle_dir.
Result<Object> new_place(const RunDir& run, const std::string& vm);
constexpr const char* k_bundle_dir = "bundle";
constexpr const char* k_snap_kind = "snap";  // of the object that it lies in

// What a taker of `dir` works in until it is whole: DIR.tmp-PID-XXXXXXXX, locked by it.
constexpr const char* k_temporary_suffix = ".tmp-";
// Removes those of takers that were killed. True when a live one's is there.
bool remove_leftovers(const std::string& dir);
// Snapshots of the scope that were never whole, since their takers were killed.
void sweep_half_taken(const RunDir& run);

struct Deletion {
  std::string path;
  bool deleted = false;  // false: it was not there
};
// Code::in_use, with key `vms`, while VMs run that were restored from it, unless `force`; they go
// on then. A directory that is no snapshot is refused, `force` or not.
Result<Deletion> delete_snapshot(const RunDir& run, const std::string& word, bool force);

// VMs, as "scope/name", that run on it.
std::vector<std::string> users_of(const RunDir& run, const std::string& dir);

}  // namespace pv::snap
