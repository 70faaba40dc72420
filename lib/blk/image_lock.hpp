// SPDX-License-Identifier: MIT
// QEMU's advisory image locks (block/file-posix.c, raw_check_lock_bytes): open-file-description
// locks on single bytes, 100 + n for a permission that is held, 200 + n for one that is not shared.
// Taking the same ones makes qemu-img respect our disks and makes us respect QEMU's.
#pragma once

#include <string>

#include "base/result.hpp"

namespace pv::blk {

// Locks an open image for reading, or for reading and writing alone. The locks live as long as the
// file description. Code::in_use when somebody holds a conflicting one; file systems without
// locks are let through, as QEMU does.
Result<> lock_image(int fd, bool read_only, const std::string& path);

}  // namespace pv::blk
