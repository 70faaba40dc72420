// SPDX-License-Identifier: MIT
// A learning Ethernet switch: where each frame goes, without sockets and with a clock of the
// caller's, so that it can be tested to the frame. A port's link is a wire in each direction, with
// the same settings; a frame from one VM to another crosses two links. Single-threaded.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string_view>
#include <unordered_map>

#include "lan/wire.hpp"

namespace pv::lan {

using PortId = uint32_t;

struct PortCounters {
  uint64_t frames_in = 0, bytes_in = 0;    // from the VM
  uint64_t frames_out = 0, bytes_out = 0;  // to the VM
  uint64_t malformed = 0;                  // shorter than an Ethernet header
  uint64_t slow_receiver = 0;              // the VM does not take them quickly enough
  Dropped dropped;                         // by the link, in both directions
};

class Switch {
 public:
  enum class Sent { yes, no_room, nobody };
  using Send = std::function<Sent(std::string_view frame)>;

  // Addresses that are remembered of one port; more are flooded to.
  static constexpr size_t k_max_addresses = 256;

  Switch(const Clock& clock, Timers& timers) : clock_(clock), timers_(timers) {}

  // `send` hands a frame to the VM. The id is the caller's and not in use.
  void add(PortId id, Send send);
  void remove(PortId id);
  void set_link(PortId id, const LinkSettings& settings);
  // The VM behind the port has gone: what was learned of it is forgotten.
  void forget_addresses(PortId id);
  // A frame from the VM.
  void receive(PortId id, std::string_view frame);
  PortCounters counters(PortId id) const;

 private:
  struct Port {
    Send send;
    std::unique_ptr<Wire> in, out;
    size_t addresses = 0;
    PortCounters counters;
  };
  void forward(PortId from, std::string_view frame);
  void learn(PortId from, uint64_t mac);
  void hand_over(PortId to, std::string_view frame);

  const Clock& clock_;
  Timers& timers_;
  std::map<PortId, Port> ports_;
  std::unordered_map<uint64_t, PortId> where_;
};

}  // namespace pv::lan
