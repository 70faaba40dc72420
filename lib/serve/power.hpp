// SPDX-License-Identifier: MIT
// A power cut of one disk, in two steps, so that several disks lose their power at one instant:
//   power.check  says whether the cut that is meant can be made; changes nothing
//   power.freeze from the reply on the disk takes no request and answers none
//   power.cut    hangs up on every client, drops what is volatile but for the survivors, and puts
//                those below; when the reply comes the power is back
// All three on one connection. A disk that is frozen when its connection ends goes on as if nothing
// had been: whoever wanted the cut has died. Owned by the disk server, on its loop's thread.
#pragma once

#include "base/control.hpp"
#include "base/loop.hpp"
#include "blk/counters.hpp"
#include "blk/disk.hpp"
#include "front/front.hpp"
#include "serve/control_ops.hpp"

namespace pv::serve {

class Power {
 public:
  using ConnectionId = ControlServer::ConnectionId;
  struct Parts {
    Loop& loop;
    blk::Disk& disk;
    const blk::Counters& counters;
    front::Front& front;
    ControlOps& ops;
    bool mediated;  // has a fault layer
  };
  explicit Power(const Parts& parts) : parts_(parts) {}

  // {"survivors","seed","atomic_bytes","keep"}, as blk::survivors_from() takes them.
  Result<json> check(const json& request) const;
  Result<json> freeze(ConnectionId id);
  // The same keys and "timeout_ms"; the reply has dropped_bytes and kept_bytes.
  void cut(ConnectionId id, json request, Reply reply);
  void ended(ConnectionId id);
  bool on() const { return state_ == State::on; }

 private:
  enum class State { on, frozen, off };
  void drain();
  void come_back();
  void back(int error);

  Parts parts_;
  State state_ = State::on;
  ConnectionId holder_ = 0;
  bool volatile_ = false;  // there is a layer that knows of power
  uint64_t deadline_ns_ = 0;
  json lost_;
  std::optional<Reply> reply_;
  blk::Request flush_;
};

}  // namespace pv::serve
