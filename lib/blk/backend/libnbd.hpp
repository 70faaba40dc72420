// SPDX-License-Identifier: MIT
// The functions of libnbd that we use, resolved at run time with the types of <libnbd.h>.
#pragma once

#include <libnbd.h>

#include "base/result.hpp"

namespace pv::blk {

// clang-format off
#define PV_LIBNBD_FUNCTIONS(X)                                                                  \
  X(nbd_create)                                                                                 \
  X(nbd_close)                                                                                  \
  X(nbd_get_error) X(nbd_get_errno) X(nbd_add_meta_context) X(nbd_aio_connect) X(nbd_get_size) \
      X(nbd_is_read_only) X(nbd_can_flush) X(nbd_can_fua) X(nbd_can_trim) X(nbd_can_zero)       \
          X(nbd_can_meta_context) X(nbd_aio_get_fd) X(nbd_aio_get_direction)                    \
              X(nbd_aio_notify_read) X(nbd_aio_notify_write) X(nbd_aio_pread_structured)        \
                  X(nbd_aio_pwrite)                                                             \
                  X(nbd_aio_flush) X(nbd_aio_trim) X(nbd_aio_zero) X(nbd_aio_block_status)      \
                      X(nbd_aio_is_ready) X(nbd_aio_is_closed) X(nbd_aio_is_dead)               \
                          X(nbd_set_strict_mode) X(nbd_set_export_name)               \
                              X(nbd_flush) X(nbd_get_block_size)                        \
                                  X(nbd_set_full_info) X(nbd_get_canonical_export_name)
// clang-format on

struct LibNbd {
#define PV_MEMBER(name) decltype(&::name) name = nullptr;
  PV_LIBNBD_FUNCTIONS(PV_MEMBER)
#undef PV_MEMBER
};

// The one instance; Code::unavailable when the library is not installed.
Result<const LibNbd*> load_libnbd();

}  // namespace pv::blk
