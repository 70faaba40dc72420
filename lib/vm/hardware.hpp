// SPDX-License-Identifier: MIT
// What a booted VM is made of, as state.json and a snapshot remember it ("hardware"): enough to
// start the same machine again, whatever has become of the profile meanwhile.
#pragma once

#include "base/json_fwd.hpp"
#include "base/result.hpp"
#include "vm/argv.hpp"

namespace pv::vm {

json hardware_to_json(const Machine& machine);

// Fills in what hardware_to_json() has put down; name, directory, disks and cards are left alone.
// Code::snapshot_corrupt for what cannot have come from there.
Result<> hardware_from_json(const json& hardware, Machine& machine);

// The processor that the guest sees where it is the host's own; "" under emulation. A snapshot can
// only go on where it is the same.
std::string host_cpu(const std::string& accel, const std::string& cpuinfo = "/proc/cpuinfo");

// What a report on KVM has to say of the host.
json kvm_host(const std::string& cpuinfo = "/proc/cpuinfo");

}  // namespace pv::vm
