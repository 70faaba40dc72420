// SPDX-License-Identifier: MIT
// The process behind one disk: a loop, the stack, the front ends, the control socket. Started as
// a daemon by start_server(), ended by SIGTERM or by close_disk().
#pragma once

#include <functional>
#include <string>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/process.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"
#include "serve/spec.hpp"

namespace pv::serve {

// A server that has been started and may not accept connections yet.
struct StartingServer {
  Daemon daemon;
  std::string log;

  // Waits until it does. Returns the object's state (the `disk` document).
  Result<json> wait(const Deadline& deadline) const;
};

// Starts the server of a new disk object.
Result<StartingServer> begin_server(const Object& disk, const Spec& spec);

// The same and waits. On failure the object is as it was: still empty.
Result<json> start_server(const Object& disk, const Spec& spec, const Deadline& deadline);

// Runs a server in this process until it is told to end (--foreground); `ready` is called with the
// state once it accepts connections.
Result<> run_server(const Object& disk, Spec spec,
                    const std::function<void(const json& state)>& ready);

}  // namespace pv::serve
