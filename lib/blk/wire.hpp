// SPDX-License-Identifier: MIT
// What a status becomes on the way to the one who sees it. Every front end can say less than an
// errno: the journal records both what a rule asked for and what was delivered.
#pragma once

#include "blk/disk.hpp"

namespace pv::blk {

// The errno that the other side of `front` sees when a request of kind `op` ends with `error`.
// NBD has eight codes (NBD protocol, "Error values"); everything else arrives as EINVAL or EIO.
int delivered(Front front, Op op, int error);

}  // namespace pv::blk
