// SPDX-License-Identifier: MIT
// The wrapper around a stack: every request is validated here once, so that layers and back ends
// only check what they alone know. In an audited stack (tests) it also asserts that each request
// is completed exactly once and with an errno.
#pragma once

#include <memory>

#include "blk/disk.hpp"

namespace pv::blk {

// 0, or why a request is refused: ERANGE past the end (whole, nothing is transferred), EINVAL for a
// misaligned or malformed one, EROFS for a change to a read-only disk. Flush is always allowed.
int validate(const Geometry& geometry, const Request& request);

std::unique_ptr<Disk> make_checked(std::unique_ptr<Disk> lower);
std::unique_ptr<Disk> make_audited(std::unique_ptr<Disk> lower);

// A geometry that no back end may report: Code::invalid says which rule it breaks.
Result<> check_geometry(const Geometry& geometry);

}  // namespace pv::blk
