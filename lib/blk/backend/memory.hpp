// SPDX-License-Identifier: MIT
// A disk in memory, sparse: only what was written takes room. Everything completes inline.
#pragma once

#include <memory>

#include "blk/disk.hpp"

namespace pv::blk {

Result<std::unique_ptr<Disk>> make_memory_disk(const Geometry& geometry);

}  // namespace pv::blk
