// SPDX-License-Identifier: MIT
// Pipes through which large reads go from the page cache to a socket without being copied. A
// bounded number, kept for reuse. Owned by one server, used on its loop's thread.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "base/fd.hpp"

namespace pv::nbd {

struct Pipe {
  Fd read_end, write_end;
};

class Pipes {
 public:
  // What a pipe holds, header included, whatever its alignment to pages.
  static constexpr size_t k_room = (256 << 10) + 4096;

  // An empty pipe; null when all are in use or the system gives no more.
  Pipe* take();
  // Gives an empty pipe back.
  void give(Pipe* pipe);
  // Gives a pipe back that may hold something.
  void give_dirty(Pipe* pipe);

 private:
  static constexpr size_t k_max = 16;
  std::vector<std::unique_ptr<Pipe>> all_;
  std::vector<Pipe*> free_;
  bool refused_ = false;  // by the system's limits: not asked again
};

}  // namespace pv::nbd
