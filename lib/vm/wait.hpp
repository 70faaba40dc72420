// SPDX-License-Identifier: MIT
// Waiting for something to become true of a VM, whoever makes it so: the VM's directory is watched,
// nobody is asked.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"

namespace pv::vm {

// One of these.
struct Condition {
  std::vector<std::string> states;  // it is in one of them
  std::string event;                // an event of this name has a number above `since`
  std::optional<uint64_t> since;    // nullopt: only events from now on
  std::string console;  // POSIX extended regular expression; a line since the last boot matches
};

struct Waited {
  bool holds = false;  // false: it will not come any more, the VM has ended
  bool closed = false;
  json found;  // the event, or the console's line; null for a state
};

// Code::timeout when it has not come in time; Code::usage for a bad expression; Code::no_such_vm
// when the VM is closed meanwhile, unless its end was waited for.
Result<Waited> wait_for(const Object& vm, const Condition& condition, const Deadline& deadline);

}  // namespace pv::vm
