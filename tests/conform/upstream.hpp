// SPDX-License-Identifier: MIT
// Disks on servers of others, as back ends of the conformance suite.
#pragma once

#include <memory>
#include <string>

#include "base/loop.hpp"
#include "blk/disk.hpp"

namespace pv::test {

// "qcow2" (in qemu-storage-daemon) or "nbdkit": all zeroes, as a new disk is. Only one at a time of
// a kind and size: they share a server.
std::unique_ptr<blk::Disk> upstream_disk(const std::string& kind, const blk::Geometry& geometry,
                                         Loop& loop);

}  // namespace pv::test
