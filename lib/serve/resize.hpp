// SPDX-License-Identifier: MIT
// Changes the size of a disk while it is served, and answers those who wait for that. For the
// moment of the change nothing is in flight: requests of NBD clients wait in their sockets, those
// of control sockets in ControlOps. Owned by the disk server, on its loop's thread.
#pragma once

#include <functional>
#include <map>
#include <optional>

#include "base/control.hpp"
#include "base/loop.hpp"
#include "blk/counters.hpp"
#include "blk/disk.hpp"
#include "front/front.hpp"
#include "serve/control_ops.hpp"

namespace pv::serve {

class Resizer {
 public:
  struct Parts {
    Loop& loop;
    blk::Disk& disk;
    const blk::Counters& counters;
    front::Front& front;
    ControlOps& ops;
    std::function<Result<>()> save;  // the new size, for the next command
  };
  explicit Resizer(const Parts& parts) : parts_(parts) {}

  // {"op":"resize","size_bytes","shrink","timeout_ms","reconnect_pid"}: the reply has the size
  // before. The NBD clients of that process are then disconnected, so that they ask anew.
  void resize(const json& request, Reply reply);

  bool busy() const { return job_.has_value(); }

  // {"op":"wait_resize","from_bytes"}: answered when the size is another.
  void wait(ControlServer::ConnectionId id, const json& request, Reply reply);
  void abandon(ControlServer::ConnectionId id) { waiters_.erase(id); }

 private:
  struct Job {
    uint64_t size;
    uint64_t deadline_ns;
    pid_t reconnect_pid;
    Reply reply;
  };
  struct Waiter {
    uint64_t from;
    Reply reply;
  };
  Result<> check(uint64_t size, bool shrink) const;
  void drain();
  Result<json> change(const Job& job);
  void tell_waiters();

  Parts parts_;
  std::optional<Job> job_;
  std::map<ControlServer::ConnectionId, Waiter> waiters_;
};

}  // namespace pv::serve
