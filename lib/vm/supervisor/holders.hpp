// SPDX-License-Identifier: MIT
// Who keeps a guest busy: one entry for each connection with a command, a transfer or another
// stream in the guest, with what is known of the process at its other end. Owned by the
// supervisor, on its thread.
#pragma once

#include <map>
#include <string>

#include "base/control.hpp"

namespace pv::vm {

struct Holder {
  std::string kind;  // run, put, get, tail
  pid_t pid = 0;
  std::string command;  // its command line, cut at 200 bytes
  std::string caller;   // $PV_CALLER of the process, "script:line"; empty when it has none
  uint64_t since_ns = 0;
};

class Holders {
 public:
  using Id = ControlServer::ConnectionId;

  // `request` may have the keys "kind" and "caller".
  void add(Id id, pid_t pid, const json& request);
  void remove(Id id) { holders_.erase(id); }
  const Holder* find(Id id) const;
  // Files on their way into the guest or out of it.
  size_t transfers() const;
  // [{"kind","pid","command","caller"?,"since_ns"}…] in the order of their beginning.
  json list() const;

 private:
  std::map<Id, Holder> holders_;
};

}  // namespace pv::vm
