// SPDX-License-Identifier: MIT
// The guest's file systems, frozen by its agent for somebody who takes a snapshot, and thawed when
// he says so or is gone. Owned by the supervisor, on its thread.
#pragma once

#include <optional>

#include "base/control.hpp"
#include "vm/supervisor/agent.hpp"

namespace pv::vm {

class Freezer {
 public:
  using Owner = ControlServer::ConnectionId;

  explicit Freezer(Agent& agent) : agent_(agent) {}
  // Code::in_use while they are frozen for another.
  void freeze(Owner owner, uint64_t timeout_ns, const JsonReply& reply);
  void thaw(uint64_t timeout_ns, const JsonReply& reply);
  // This connection is gone.
  void ended(Owner owner);

 private:
  Agent& agent_;
  std::optional<Owner> owner_;
};

}  // namespace pv::vm
