// SPDX-License-Identifier: MIT
// What the parts of one client's conversation share, and what all clients of a server do.
#pragma once

#include <functional>
#include <memory>

#include "base/loop.hpp"
#include "blk/counters.hpp"
#include "blk/disk.hpp"
#include "front/vhost/dirty_log.hpp"
#include "front/vhost/memory.hpp"
#include "front/vhost/server.hpp"

namespace pv::vhost {

struct Ground {
  Loop& loop;
  blk::Disk& disk;
  blk::Counters& counters;
  const Identity identity;
  bool stopping = false;  // nothing is begun any more
  bool paused = false;    // nothing new is begun for now
  bool frozen = false;    // and answers wait
  bool busy = false;      // an earlier client's requests have not all come back
  bool loans = true;      // reads may be copied from where the bytes lie

  bool may_begin() const { return !stopping && !paused && !frozen && !busy; }
};

struct Session {
  Ground& ground;
  uint32_t number;  // of the connection
  uint64_t features = 0;
  bool writeback = true;  // as the guest has set it
  bool news = false;      // of the configuration, which a device at rest does not take
  bool gone = false;      // nothing is said to it, or written to its memory, any more
  std::shared_ptr<const Memory> memory = std::make_shared<Memory>();
  std::unique_ptr<DirtyLog> log = nullptr;
  std::function<void()> hang_up = nullptr;    // by a fault
  std::function<void()> came_back = nullptr;  // a request of a client that is gone has ended

  bool has(uint64_t feature) const { return (features & feature) != 0; }
  // Section 5.2.6.2: without a way to flush, a write is on the medium when it is answered.
  bool writes_through() const { return !has(k_blk_flush) || (has(k_blk_config_wce) && !writeback); }
  DirtyLog* dirty() const { return has(k_f_log_all) ? log.get() : nullptr; }
};

}  // namespace pv::vhost
