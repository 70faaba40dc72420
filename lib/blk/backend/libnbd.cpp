// SPDX-License-Identifier: MIT
#include "blk/backend/libnbd.hpp"

#include <dlfcn.h>

namespace pv::blk {

Result<const LibNbd*> load_libnbd() {
  static LibNbd library;
  static bool loaded = false;
  if (loaded) return &library;
  void* handle = dlopen("libnbd.so.0", RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr)
    return fail(Code::unavailable, "libnbd is not installed (Debian package libnbd0)");
#define PV_RESOLVE(name)                                                         \
  library.name = reinterpret_cast<decltype(library.name)>(dlsym(handle, #name)); \
  if (library.name == nullptr) return fail(Code::unavailable, "libnbd lacks " #name "()");
  PV_LIBNBD_FUNCTIONS(PV_RESOLVE)
#undef PV_RESOLVE
  loaded = true;
  return &library;
}

}  // namespace pv::blk
