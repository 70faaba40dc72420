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

// The same with reads and writes that go past the page cache, through a second description of the
// file; what is not aligned as the device wants it goes through a buffer. Code::unsupported where
// the file system has no O_DIRECT. `at_least` asks for a coarser alignment than the device's.
Result<std::unique_ptr<Disk>> make_direct_disk(Fd fd, const Geometry& geometry, AsyncIo& io,
                                               const std::string& path, uint32_t at_least = 1);

// Size in bytes of a regular file or block device.
Result<uint64_t> size_of_file(int fd, const std::string& path);

}  // namespace pv::blk
