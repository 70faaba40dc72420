// SPDX-License-Identifier: MIT
// The process behind a lan: a switch with one socket per member, single-threaded on one event
// loop. It knows ports by their number; who sits at a port is written in the lan's state.json,
// which belongs to the commands.
//
// Requests on its control socket ({"op":…}) and replies:
//   add port                                  {}      listens on port_socket()
//   remove port                               {}      idempotent
//   link port up latency_ns jitter_ns loss seed  {}
//   status                                    {"ports":{"1":{"connected",…}}}
#pragma once

#include <string>

#include "base/clock.hpp"
#include "base/json_fwd.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"
#include "lan/switch.hpp"

namespace pv::lan {

constexpr const char* k_control_socket = "ctl.sock";

// Where QEMU connects to.
std::string port_socket(const Object& lan, PortId port);

json link_to_json(const LinkSettings& settings);
LinkSettings link_from_json(const json& object);

// Starts the process; it accepts requests when this returns. Its identity.
Result<ProcessId> start_server(const Object& lan, const Deadline& deadline);

}  // namespace pv::lan
