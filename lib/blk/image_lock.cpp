// SPDX-License-Identifier: MIT
#include "blk/image_lock.hpp"

#include <cerrno>
#include <fcntl.h>
#include <initializer_list>

#include <fmt/format.h>

#include "base/clock.hpp"
#include "base/rng.hpp"

namespace pv::blk {
namespace {

// Permissions by bit number (include/block/block-common.h, BLK_PERM_*).
constexpr int k_read = 0;
constexpr int k_write = 1;
constexpr int k_resize = 3;
constexpr off_t k_held = 100;
constexpr off_t k_unshared = 200;
constexpr int k_tries = 8;

flock byte_lock(short type, off_t at) {
  flock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = at;
  lock.l_len = 1;
  return lock;
}

bool take(int fd, off_t at) {
  flock lock = byte_lock(F_RDLCK, at);
  return fcntl(fd, F_OFD_SETLK, &lock) == 0 || (errno != EAGAIN && errno != EACCES);
}

// Whether nobody else holds a lock on this byte.
bool is_free(int fd, off_t at) {
  flock lock = byte_lock(F_WRLCK, at);
  return fcntl(fd, F_OFD_GETLK, &lock) < 0 || lock.l_type == F_UNLCK;
}

bool try_lock(int fd, bool read_only) {
  bool mine = take(fd, k_held + k_read);
  if (!read_only) mine = mine && take(fd, k_held + k_write);
  for (int permission : {k_write, k_resize}) mine = mine && take(fd, k_unshared + permission);
  // First our own locks, then the look at the others': of two that start at once, one sees the
  // other.
  mine = mine && is_free(fd, k_unshared + k_read);
  if (!read_only) mine = mine && is_free(fd, k_unshared + k_write);
  for (int permission : {k_write, k_resize}) mine = mine && is_free(fd, k_held + permission);
  return mine;
}

void unlock(int fd) {
  for (const off_t first : {k_held, k_unshared}) {
    flock lock = byte_lock(F_UNLCK, first);
    lock.l_len = k_resize + 1;
    fcntl(fd, F_OFD_SETLK, &lock);
  }
}

}  // namespace

Result<> lock_image(int fd, bool read_only, const std::string& path) {
  Rng rng(fresh_seed());
  for (int tries = 0; tries < k_tries; ++tries) {
    if (tries > 0) sleep_ns((1 + rng.below(10)) * k_ns_per_ms);
    if (try_lock(fd, read_only)) return {};
    unlock(fd);  // the other may have seen ours: without them, one of the two gets it
  }
  return fail(Code::in_use,
              fmt::format("image {} is in use by another disk server or by QEMU", path));
}

}  // namespace pv::blk
