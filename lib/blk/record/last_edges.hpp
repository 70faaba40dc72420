// SPDX-License-Identifier: MIT
// What the first and the last bytes of a disk are when its log is closed, so that whoever goes on
// with the log can tell whether it is the same disk still. On the loop's thread, which may have
// been stopped; it runs again for as long as the reads take, some seconds at most.
#pragma once

#include <optional>

#include "blk/disk.hpp"

namespace pv::blk {

// The hash of look_at_base(); nothing when the disk does not answer or not well.
std::optional<uint64_t> last_edges(Disk& disk, const Env& env);

}  // namespace pv::blk
