// SPDX-License-Identifier: MIT
// What the supervisor does for commands about the VM's network cards; the cards themselves are
// vm/nics.hpp. Requests are {"op":"net","do":…}:
//
//   plug nic            {"slot"}
//   unplug lan          {"released"}
//   link lan up         {}
//   configure nic wait  {}            at once, unless "wait"
#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "vm/supervisor/supervisor.hpp"

namespace pv::vm {

void Supervisor::op_net(ControlServer::ConnectionId, const json& request, const Reply& reply) {
  const std::string what = get_string(request, "do");
  const uint64_t timeout_ns = timeout_of(request);
  const std::string lan = get_string(request, "lan");
  if (what == "unplug") return nics_.unplug(lan, timeout_ns, reply);
  if (what == "link") return nics_.set_link(lan, get_bool(request, "up"), timeout_ns, reply);
  const json* object = find(request, "nic");
  auto nic = nic_from_json(object ? *object : json::object());
  if (!nic) return reply(fail(nic.error()));
  if (what == "configure") {
    const bool wait = get_bool(request, "wait", true);
    nics_.configure(*nic, timeout_ns, [reply, wait](const Result<>& result) {
      if (!wait) return;
      if (!result) return reply(fail(result.error()));
      reply(json::object());
    });
    if (!wait) reply(json::object());
    return;
  }
  const auto slot = free_slot();
  if (!slot)
    return reply(fail(Code::unsupported, fmt::format("VM '{}' has no free slot for a network card "
                                                     "(all {} are taken)",
                                                     plan_.vm.name, plan_.ports)));
  nics_.plug(*nic, *slot, timeout_ns, reply);
}

// Disks and network cards share the slots.
std::optional<size_t> Supervisor::free_slot() const {
  for (size_t slot = 0; slot < plan_.ports; ++slot)
    if (slots_.count(slot) == 0 && !nics_.has_slot(slot)) return slot;
  return std::nullopt;
}

}  // namespace pv::vm
