// SPDX-License-Identifier: MIT
// Lans as the commands use them: made, joined and left by VMs, their links changed, closed. The
// lan's lock is taken before any VM's, so whoever holds a VM's lock never waits for a lan.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"
#include "vm/lan/state.hpp"

namespace pv::lan {

// A new lan in the current scope with a switch that runs.
Result<Object> create_lan(const RunDir& run, const std::string& name, const Deadline& deadline);

// The `lan` object of a document, with what the switch has counted. A lan whose switch has gone is
// "dead".
Result<json> lan_document(const Object& lan, const Deadline& deadline);

// Puts VMs into the lan: all of them or, on failure, none. Running ones have their card, address
// and names when this returns; others get them with their next boot.
Result<> attach(const Object& lan, const std::vector<Object>& vms, const Deadline& deadline);

// Takes members out, one by one. Code::no_such_vm for a VM that is none.
Result<> detach(const Object& lan, const std::vector<std::string>& vms, const Deadline& deadline);

// What is to change of a link; the rest stays.
struct LinkChange {
  std::optional<bool> up;
  std::optional<uint64_t> latency_ns, jitter_ns;
  std::optional<double> loss;
  std::optional<uint64_t> seed;
};
Result<> change_link(const Object& lan, const std::string& vm, const LinkChange& change,
                     const Deadline& deadline);

// Takes all members out, ends the switch and forgets the lan. A guest that does not let go of its
// card keeps one whose cable leads nowhere. Idempotent.
Result<> close_lan(const RunDir& run, const Object& lan, const Deadline& deadline);

// Takes a VM that has been closed out of its lans: `vm_state` is what its state.json was. The
// others forget its name a moment later. The caller no longer holds the VM's lock.
void leave_lans(const json& vm_state, const Deadline& deadline);

// Tells a VM that has just booted what has changed in its lans meanwhile; `told` is what it booted
// with. The caller does not hold the VM's lock.
void catch_up(const Object& vm, const std::vector<vm::NicSpec>& told, const Deadline& deadline);

}  // namespace pv::lan
