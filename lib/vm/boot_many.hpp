// SPDX-License-Identifier: MIT
// Several VMs booted at the same time, each by a process of its own that does what boot_vm() does
// and ends; those processes die with us. Single-threaded: the caller hears of each VM in turn.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"
#include "vm/profile/config.hpp"

namespace pv::vm {

struct BootMany {
  struct Job {
    RunDir run;
    Object vm;
  };
  std::vector<Job> jobs;
  VmOptions options;
  uint64_t timeout_ns = 0;  // of each boot, from when it begins
  size_t parallel = 1;      // at the same time
  bool atomic = false;      // all or none
};

// How long one of `parallel` boots may take by default: each takes longer where processors are
// shared, also with the other VMs of the run directory, which other commands may be booting.
uint64_t default_boot_ns(const RunDir& run, size_t parallel);

// Calls `done` once for each job, as it has booted or failed. With `atomic` nothing is started when
// one is in the wrong state, and when one fails the others are what they were before; `done` is
// then called when that is so, with Code::aborted for those that did not fail themselves.
void boot_many(const BootMany& batch, const std::function<void(size_t job, Result<json>)>& done);

}  // namespace pv::vm
