// SPDX-License-Identifier: MIT
#include "base/dir_watch.hpp"

#include <cerrno>
#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

namespace pv {

Result<DirWatch> DirWatch::open(const std::string& dir) {
  Fd fd(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!fd) return fail_errno("cannot watch " + dir, errno);
  constexpr uint32_t k_changes = IN_MODIFY | IN_CREATE | IN_DELETE | IN_MOVED_TO | IN_MOVED_FROM |
                                 IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;
  if (inotify_add_watch(fd.get(), dir.c_str(), k_changes) < 0)
    return fail_errno("cannot watch " + dir, errno);
  return DirWatch(std::move(fd));
}

void DirWatch::wait(uint64_t max_ns) {
  pollfd poll_fd{fd_.get(), POLLIN, 0};
  const int ms = Deadline::in_ns(max_ns).left_ms();
  // Interrupted or not, who waits looks again.
  if (poll(&poll_fd, 1, ms) > 0) drain();
}

void DirWatch::drain() {
  char events[4096];
  while (read(fd_.get(), events, sizeof events) > 0) {
  }
}

}  // namespace pv
