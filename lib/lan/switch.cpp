// SPDX-License-Identifier: MIT
#include "lan/switch.hpp"

#include "lan/frames.hpp"

namespace pv::lan {
namespace {

constexpr size_t k_source_at = 6;  // after the destination

}  // namespace

void Switch::add(PortId id, Send send) {
  Port& port = ports_[id];
  port.send = std::move(send);
  constexpr uint64_t k_in = 0, k_out = 1;
  port.in = std::make_unique<Wire>(clock_, timers_, k_in,
                                   [this, id](std::string_view frame) { forward(id, frame); });
  port.out = std::make_unique<Wire>(clock_, timers_, k_out,
                                    [this, id](std::string_view frame) { hand_over(id, frame); });
}

void Switch::remove(PortId id) {
  forget_addresses(id);
  ports_.erase(id);
}

void Switch::set_link(PortId id, const LinkSettings& settings) {
  const auto found = ports_.find(id);
  if (found == ports_.end()) return;
  found->second.in->set(settings);
  found->second.out->set(settings);
}

void Switch::forget_addresses(PortId id) {
  std::erase_if(where_, [id](const auto& entry) { return entry.second == id; });
  if (const auto found = ports_.find(id); found != ports_.end()) found->second.addresses = 0;
}

void Switch::receive(PortId id, std::string_view frame) {
  const auto found = ports_.find(id);
  if (found == ports_.end()) return;
  Port& port = found->second;
  if (frame.size() < k_ethernet_header) {
    ++port.counters.malformed;
    return;
  }
  ++port.counters.frames_in;
  port.counters.bytes_in += frame.size();
  port.in->send(frame);
}

void Switch::learn(PortId from, uint64_t mac) {
  if ((mac & k_multicast_bit) != 0) return;  // nobody's own address
  Port& port = ports_.at(from);
  const auto found = where_.find(mac);
  if (found != where_.end() && found->second == from) return;
  if (port.addresses >= k_max_addresses) return;
  if (found != where_.end()) --ports_.at(found->second).addresses;
  where_[mac] = from;
  ++port.addresses;
}

void Switch::forward(PortId from, std::string_view frame) {
  learn(from, mac_at(frame, k_source_at));
  const uint64_t destination = mac_at(frame, 0);
  if ((destination & k_multicast_bit) == 0)
    if (const auto known = where_.find(destination); known != where_.end()) {
      if (known->second != from) ports_.at(known->second).out->send(frame);
      return;
    }
  for (auto& [id, port] : ports_)
    if (id != from) port.out->send(frame);
}

void Switch::hand_over(PortId to, std::string_view frame) {
  Port& port = ports_.at(to);
  switch (port.send(frame)) {
    case Sent::yes:
      ++port.counters.frames_out;
      port.counters.bytes_out += frame.size();
      break;
    case Sent::no_room:
      ++port.counters.slow_receiver;
      break;
    case Sent::nobody:
      break;
  }
}

PortCounters Switch::counters(PortId id) const {
  const auto found = ports_.find(id);
  if (found == ports_.end()) return {};
  PortCounters counters = found->second.counters;
  for (const Wire* wire : {found->second.in.get(), found->second.out.get()}) {
    counters.dropped.link_down += wire->dropped().link_down;
    counters.dropped.loss += wire->dropped().loss;
    counters.dropped.queue_full += wire->dropped().queue_full;
  }
  return counters;
}

}  // namespace pv::lan
