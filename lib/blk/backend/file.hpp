// SPDX-License-Identifier: MIT
// The raw file back end. What the page cache holds is served inline; what would block goes to
// AsyncIo. Capacity is fixed when it is opened.
#pragma once

#include <memory>

#include "base/fd.hpp"
#include "blk/backend/async_io.hpp"
#include "blk/disk.hpp"

namespace pv::blk {

// Takes over an open file. `io` is shared by the back ends of one server and outlives them.
std::unique_ptr<Disk> make_file_disk(Fd fd, const Geometry& geometry, AsyncIo& io);

// Size in bytes of a regular file or block device.
Result<uint64_t> size_of_file(int fd, const std::string& path);

}  // namespace pv::blk
