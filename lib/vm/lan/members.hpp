// SPDX-License-Identifier: MIT
// Steps of changing who is in a lan, each taken under the lan's lock; used by the functions of
// lan.hpp only.
#pragma once

#include <string>

#include "base/clock.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"
#include "vm/lan/state.hpp"

namespace pv::lan {

// One request to the lan's process. Code::server_dead when it has gone.
Result<json> call_switch(const Object& lan, const LanState& state, const json& request,
                         const Deadline& deadline);
Result<> require_switch(const Object& lan, const LanState& state);

Error no_such_member(const Object& lan, const LanState& state, std::string_view vm);

// Tells the switch what the member's link is like.
Result<> send_link(const Object& lan, const LanState& state, const Member& member,
                   const Deadline& deadline);
// Tells a running guest whether its cable is in.
Result<> show_carrier(const Object& lan, const Member& member, const Deadline& deadline);

// Takes a member out of the lan, its VM and the switch. When the guest does not let go of its card
// in time that is Code::timeout and the VM stays a member, unless `force`.
Result<> remove_member(const Object& lan, LanState& state, const std::string& vm,
                       const Deadline& deadline, bool force);

}  // namespace pv::lan
