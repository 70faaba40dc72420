// SPDX-License-Identifier: MIT
// Between memory that others have too and a layer that looks at data. A request's data may be the
// guest's own pages (Request::shared): they change whenever the guest likes, and one page may be
// there several times in one request. A layer that compares, keeps or changes data would then see
// something else than the disk or the guest gets. So it works on one private copy: what is written
// is fetched once, before the layer has the request; what is read is handed out once, after it.
#pragma once

#include <memory>

#include "blk/disk.hpp"

namespace pv::blk {

// Puts a private copy between `lower` and its shared requests. With `always` for each of them, else
// for those that lower->looks_at().
//
// Copies take at most k_private_bytes at a time (one request may be larger); what comes above that
// waits for those before it. They are requests in flight, for which no order is promised.
constexpr size_t k_private_bytes = 64 << 20;
std::unique_ptr<Disk> make_private(std::unique_ptr<Disk> lower, bool always);

}  // namespace pv::blk
