// SPDX-License-Identifier: MIT
// The disks of a profile: served, as copy-on-write over their images, when a VM boots that has none
// of that name. The caller holds the VM's lock.
#pragma once

#include <vector>

#include "base/clock.hpp"
#include "base/json_fwd.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"
#include "vm/argv.hpp"
#include "vm/profile/profile.hpp"

namespace pv::vm {

class BootDisks {
 public:
  BootDisks(RunDir run, Object vm) : run_(std::move(run)), vm_(std::move(vm)) {}
  // Closes what was made, unless keep() was called: a boot that fails leaves nothing.
  ~BootDisks();
  BootDisks(const BootDisks&) = delete;
  BootDisks& operator=(const BootDisks&) = delete;

  // Makes those that are missing. They come first in `state`'s list of disks, so that the guest
  // counts them from vda.
  Result<> make(const Profile& profile, json& state, const Deadline& deadline);
  void keep() { made_.clear(); }

 private:
  Result<> make_one(const ProfileDisk& disk, const Deadline& deadline);

  RunDir run_;
  Object vm_;
  std::vector<Object> made_;
};

// The VM's disks in their order, each with a living server: a dead one would show as a hang in the
// guest.
Result<std::vector<DiskSpec>> cold_disks(const RunDir& run, const Object& vm, const json& state);

// What make() and cold_disks() would give, for a look at the command line: nothing is started.
std::vector<DiskSpec> planned_disks(const Profile& profile, const json& state,
                                    std::vector<DiskSpec> existing);

}  // namespace pv::vm
