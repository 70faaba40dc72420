// SPDX-License-Identifier: MIT
// A VM's serial console, from the commands: its log as it grows, and a terminal on it.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/clock.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"

namespace pv::vm {

using ConsolePrint = std::function<Result<>(std::string_view bytes)>;

// Prints the last `tail_bytes` of the log; with `follow` goes on until the VM ends or nobody reads
// `output`.
Result<> print_console(const Object& vm, uint64_t tail_bytes, bool follow, int output,
                       const ConsolePrint& print);

// Joins `input` to the console and the console to `print` until the VM ends, Ctrl-] is typed on a
// terminal, or the input ends and the guest has been silent for a moment. Code::in_use while
// another process has it.
Result<> attach_console(const Object& vm, int input, int output, const ConsolePrint& print);

}  // namespace pv::vm
