// SPDX-License-Identifier: MIT
// QEMU's migration stream, as far as a snapshot needs to know it (qemu_savevm_state() and
// ram_save_setup() in QEMU's migration/savevm.c and ram.c):
//
//   magic version [configuration] | sections of "ram": start, part…, [command], end | a section per
//   device, end
//
// With x-ignore-shared the guest's memory is not in it, only small blocks such as the firmware's.
// Those hardly ever change, so a VM's first snapshot takes the whole stream, by migration, and what
// follows takes new device sections (QMP xen-save-devices-state, which works on a VM whatever its
// memory is) and puts the old front before them. The bytes are foreign: every length is checked.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace pv::vm {

// More than any VM's devices have ever filled.
constexpr size_t k_max_device_state = 64 << 20;

// Where the sections of "ram" end. Code::qmp for a stream of another form.
Result<size_t> end_of_ram(std::string_view stream);

// A stream to load: the front of one and the devices of another, which has no "ram".
Result<std::string> join_device_state(std::string_view front, std::string_view devices);

}  // namespace pv::vm
