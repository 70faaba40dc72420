// SPDX-License-Identifier: MIT
// Mapped files of others, guarded against their being cut: a touch of what is gone is SIGBUS, whose
// handler puts a page of zeroes there. The handler is the process's; one that was there before is
// asked for every other address.
#pragma once

#include <cstddef>

namespace pv::vhost {

// A number for the mapping; -1 when there are too many, which are then not guarded.
int guard_against_bus_errors(char* mapping, size_t size);
void end_guard(int guard);

}  // namespace pv::vhost
