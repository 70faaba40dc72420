// SPDX-License-Identifier: MIT
// A disk behind a vhost-user server, as a guest's driver has it, for the suite: requests go through
// one queue of a Driver, on the loop's thread. FUA is what a guest makes of it: the write cache is
// turned off for such a change, and a discard is followed by a flush.
#pragma once

#include <memory>
#include <string>

#include "base/loop.hpp"
#include "blk/disk.hpp"

namespace pv::test {

// `served` is the geometry of the disk that is served.
std::unique_ptr<blk::Disk> make_vhost_disk(const std::string& socket, const blk::Geometry& served,
                                           Loop& loop);

// Whether a virtio block device has such a request, and this much data for it.
bool vhost_carries(const blk::Request& request);

}  // namespace pv::test
