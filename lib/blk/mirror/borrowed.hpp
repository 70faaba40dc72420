// SPDX-License-Identifier: MIT
// Looks at bytes that a back end has lent (disk.hpp, Loan). They may lie in a file that somebody
// cuts meanwhile, and then looking at them is SIGBUS: here that is an answer and no end of the
// process. For the thread that looks; the handler is the process's.
#pragma once

#include <cstddef>

namespace pv::blk {

// To be called before the others; each time but the first it does nothing.
void catch_bus_errors();

enum class Compared : char { equal, different, gone };
Compared compare_borrowed(const char* a, const char* b, size_t size);
// False when they are gone.
bool copy_borrowed(char* to, const char* from, size_t size);

}  // namespace pv::blk
