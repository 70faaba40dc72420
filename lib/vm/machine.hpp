// SPDX-License-Identifier: MIT
// What this machine offers for running VMs: an accelerator, a QEMU and its abilities.
#pragma once

#include <string>
#include <vector>

#include "base/json_fwd.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"

namespace pv::vm {

// Why KVM cannot be used, or "" when it can: /dev/kvm must open and /proc/cpuinfo must show vmx or
// svm. (Some virtual machines have a /dev/kvm on which no kernel ever boots.)
std::string kvm_problem(const std::string& device = "/dev/kvm",
                        const std::string& cpuinfo = "/proc/cpuinfo");

// "kvm" or "tcg" for auto, kvm, tcg. Code::unavailable for kvm where it cannot be used.
Result<std::string> choose_accel(const std::string& wanted);

struct Qemu {
  std::string path;      // absolute
  std::string version;   // "7.2.22"
  bool sandbox = false;  // built with seccomp
  // What newer ones have instead of what they will drop: a time to reconnect in milliseconds, and
  // migration from a file by its name.
  bool reconnect_ms = false;
  bool loads_files = false;
};

// $PV_QEMU or qemu-system-x86_64 from PATH, asked for its abilities once and remembered in the run
// directory. Code::unavailable when there is none.
Result<Qemu> find_qemu(const RunDir& run);

// The `doctor` object of a document; "can_run_vms" says whether the essentials are there.
json doctor_document(const RunDir& run);

}  // namespace pv::vm
