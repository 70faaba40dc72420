// SPDX-License-Identifier: MIT
// What tells a restored guest that it is not the only one of its kind.
#pragma once

#include <string>

#include "vm/supervisor/guest_run.hpp"

namespace pv::vm {

// A command for the guest: `entropy` (bytes that no other guest gets) goes into the kernel's pool
// and is in use when it ends; there is a new machine id, and the host name is `host_name`.
GuestCommand reseed_command(const std::string& host_name, std::string entropy);

}  // namespace pv::vm
