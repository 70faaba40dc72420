// SPDX-License-Identifier: MIT
// Shell scripts that run in the guest with data ports (data_ports.hpp): for /bin/sh of any kind
// (dash, busybox ash, bash), and with as few processes as can be, because each costs 15 ms under
// TCG. Where a script cannot do its part it ends by one of the signals below, which no command
// dies of by itself.
#pragma once

#include <optional>
#include <string>

#include "base/error.hpp"

namespace pv::vm {

// "$1" "$2" "$3": numbers of the ports for stdout, stderr and stdin ("-": /dev/null); "$4": working
// directory or ""; "$5": user or ""; then the command. Its stdin begins after k_hello.
extern const std::string k_run_script;
// "$1": port with the data; "$2": port for the conversation, "$3": port that reads back; "$4":
// temporary name; "$5": final name; "$6": mode, octal, or "". Commands, a line each: "take N" (of
// 64 KiB), "back FIRST N", "keep"; answers "ok …", "no REASON".
extern const std::string k_put_script;
// "$1": port for the conversation, "$2": port with the data, "$3": file. Commands: "send"; the
// first answer is "ok SIZE MODE", the next "ok".
extern const std::string k_get_script;

// What the client sends first on every port that the guest reads: a port that nobody has connected
// to, as the guest sees it, reads as if at its end.
constexpr const char* k_hello = "\n";

// What a script died of, as an error; nullopt for a signal that is the command's own affair.
std::optional<Error> script_failure(int signal, const std::string& directory,
                                    const std::string& user);

}  // namespace pv::vm
