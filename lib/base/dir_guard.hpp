// SPDX-License-Identifier: MIT
// Tells a process that serves an object when the object's directory was deleted under it: nobody
// can reach it then, or find it to end it. Looks once a second, because the kernel's own way to be
// told (inotify) has only 128 instances for each user. Belongs to the thread of its timers.
#pragma once

#include <functional>
#include <string>
#include <sys/types.h>

#include "base/timers.hpp"

namespace pv {

class DirGuard {
 public:
  // `gone` is called once. A path that is no directory now is gone at the first look.
  DirGuard(Timers& timers, std::string path, std::function<void()> gone);
  ~DirGuard() { timers_.cancel(timer_); }
  DirGuard(const DirGuard&) = delete;
  DirGuard& operator=(const DirGuard&) = delete;

 private:
  void look();

  Timers& timers_;
  std::string path_;
  std::function<void()> gone_;
  TimerId timer_ = 0;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace pv
