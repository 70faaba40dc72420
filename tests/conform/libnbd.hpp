// SPDX-License-Identifier: MIT
// libnbd, the client that tests ask when they do not want to believe our own. Opened when it is
// first wanted, so that the test program also starts where it is missing.
#pragma once

#include <dlfcn.h>
#include <libnbd.h>

#include "../catch.hpp"

namespace pv::test {

// clang-format off
#define PV_LIBNBD_FUNCTIONS(X) \
  X(nbd_create) X(nbd_close) X(nbd_get_errno) X(nbd_add_meta_context) X(nbd_connect_unix) \
  X(nbd_get_size) X(nbd_set_strict_mode) X(nbd_pread) X(nbd_pwrite) X(nbd_flush) X(nbd_trim) \
  X(nbd_zero) X(nbd_cache) X(nbd_block_status) X(nbd_is_read_only) X(nbd_can_multi_conn) \
  X(nbd_set_request_structured_replies) X(nbd_aio_pread) X(nbd_aio_pwrite) X(nbd_aio_flush) \
  X(nbd_aio_trim) X(nbd_aio_zero) X(nbd_aio_cache) X(nbd_aio_block_status) \
  X(nbd_aio_command_completed) X(nbd_poll) X(nbd_aio_is_ready) X(nbd_aio_is_dead) \
  X(nbd_aio_is_closed)
// clang-format on

struct LibNbd {
#define PV_MEMBER(name) decltype(&::name) name = nullptr;
  PV_LIBNBD_FUNCTIONS(PV_MEMBER)
#undef PV_MEMBER
  LibNbd() {
    void* library = dlopen("libnbd.so.0", RTLD_NOW | RTLD_LOCAL);
    REQUIRE(library != nullptr);
#define PV_RESOLVE(name)                                          \
  name = reinterpret_cast<decltype(name)>(dlsym(library, #name)); \
  REQUIRE(name != nullptr);
    PV_LIBNBD_FUNCTIONS(PV_RESOLVE)
#undef PV_RESOLVE
  }
};

inline const LibNbd& libnbd() {
  static const LibNbd table;
  return table;
}

}  // namespace pv::test
