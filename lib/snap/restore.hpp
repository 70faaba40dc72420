// SPDX-License-Identifier: MIT
// From a snapshot to a VM that is where it was, and to any number of them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"
#include "snap/bundle.hpp"
#include "vm/restore.hpp"

namespace pv::snap {

struct RestoreFlags {
  vm::RestoreOptions vm;
  bool in_place = false;  // the disks' content goes back to where it was
};

// Whether it is whole, and whether this machine can go on with it: Code::snapshot_corrupt, or
// Code::incompatible with key `differs`.
Result<> check(const RunDir& run, const Bundle& bundle, bool thorough);

// Holds it: while the result lives nobody deletes it. Code::in_use while somebody does.
Result<Fd> hold(const Bundle& bundle);

// Restores `name` in the current scope, which is made, or is `created` or `shutdown`; then its
// disks are those of the snapshot. Its `vm` document. When it fails, a VM that was made is gone
// again and one that was there has no disks.
Result<json> restore(const RunDir& run, const Bundle& bundle, const std::string& name,
                     const RestoreFlags& flags);

// A new VM for one to go on as.
Result<Object> make_vm(const RunDir& run, const std::string& name);

// The same for several new VMs, `parallel` at a time; `done` is called for each. One that cannot be
// restored is gone then.
void clone(const RunDir& run, const Bundle& bundle, const std::vector<Object>& vms,
           const RestoreFlags& flags, size_t parallel,
           const std::function<void(size_t index, Result<json>)>& done);

}  // namespace pv::snap
