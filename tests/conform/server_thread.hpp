// SPDX-License-Identifier: MIT
// A server of ours for one disk, in a thread of its own. Whoever made it owns it; the disk is only
// touched by its thread, where on() runs what a test has to do there.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/loop.hpp"
#include "blk/counters.hpp"
#include "blk/disk.hpp"
#include "front/front.hpp"
#include "loop_thread.hpp"

namespace pv::test {

class ServerThread {
 public:
  // `front` is "nbd" or "vhost". A disk that needs a loop was made with the one that is handed in;
  // it is the thread's as long as the server lives.
  ServerThread(const std::string& socket, std::unique_ptr<blk::Disk> disk, Loop* loop = nullptr,
               const std::string& front = "nbd");
  ~ServerThread();

  void on(const std::function<void()>& work) { thread_.on(work); }

 private:
  std::unique_ptr<Loop> own_loop_;
  Loop& loop_;
  std::unique_ptr<blk::Disk> disk_;
  blk::Counters counters_;
  std::unique_ptr<front::Front> server_;
  LoopThread thread_;
};

}  // namespace pv::test
