// SPDX-License-Identifier: MIT
// Commands that wait for faults: until a rule has fired so often, or until the journal has grown.
// They are answered when it is so, not by asking again and again. On the loop's thread.
//   fault.wait id hits     {"rule"}
//   fault.wait since       what fault.journal says
//   fault.wait since, "journal":"verify"   the same of the journal of findings
#pragma once

#include <string>
#include <vector>

#include "base/control.hpp"
#include "base/loop.hpp"
#include "blk/disk.hpp"

namespace pv::serve {

class FaultWaits {
 public:
  FaultWaits(Loop& loop, blk::Disk& disk) : loop_(loop), disk_(disk) {}
  ~FaultWaits();

  void wait(ControlServer::ConnectionId who, const json& request, ControlServer::Reply reply);
  // The journal has a new event. Cheap while nobody waits.
  void fired() {
    if (!waiting_.empty()) look_soon();
  }
  // Nothing will come any more.
  void end();
  // A connection has ended.
  void abandon(ControlServer::ConnectionId who);

 private:
  struct Waiting {
    ControlServer::ConnectionId who;
    std::string id;  // "": the journal
    uint64_t hits = 0, since = 0;
    bool findings = false;
    ControlServer::Reply reply;
  };
  void look_soon();
  void look();
  // True when it has been answered.
  bool answer(const Waiting& one);

  Loop& loop_;
  blk::Disk& disk_;
  std::vector<Waiting> waiting_;
  TimerId timer_ = 0;
  uint64_t looked_ns_ = 0;
};

}  // namespace pv::serve
