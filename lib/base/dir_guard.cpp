// SPDX-License-Identifier: MIT
#include "base/dir_guard.hpp"

#include <sys/stat.h>

namespace pv {

constexpr uint64_t k_look_ns = k_ns_per_s;

DirGuard::DirGuard(Timers& timers, std::string path, std::function<void()> gone)
    : timers_(timers), path_(std::move(path)), gone_(std::move(gone)) {
  struct stat st {};
  if (lstat(path_.c_str(), &st) == 0) {
    device_ = st.st_dev;
    inode_ = st.st_ino;
  }
  timer_ = timers_.after(k_look_ns, [this] { look(); });
}

void DirGuard::look() {
  struct stat st {};
  const bool there = lstat(path_.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
  if (!there || st.st_dev != device_ || st.st_ino != inode_) {
    timer_ = 0;
    return gone_();
  }
  timer_ = timers_.after(k_look_ns, [this] { look(); });
}

}  // namespace pv
