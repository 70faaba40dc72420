// SPDX-License-Identifier: MIT
// Shell scripts that run in the guest with data ports (data_ports.hpp): for /bin/sh of any kind
// (dash, busybox ash, bash), and with as few processes as can be, because each costs 15 ms under
// TCG. Where a script cannot do its part it ends by one of the signals below, which no command
// dies of by itself.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/error.hpp"

namespace pv::vm {

// "$1" "$2" "$3": numbers of the ports for stdout, stderr and stdin ("-": /dev/null); "$4": working
// directory or ""; "$5": user or ""; then the command. Its stdin begins after k_hello.
extern const std::string k_run_script;
// The same without ports: "$1": working directory or ""; "$2": user or ""; then the command.
extern const std::string k_captured_script;
// "$1": port with the data, after k_hello; "$2": port for the conversation; "$3": port that reads
// back; "$4": what a temporary name ends in; "$5": the file. Says "ok" when it can begin, "ok hash"
// in a guest that has the command `pv-runner`. Commands, a line each: "take N" (that many pieces,
// or up to the end), "back FIRST N", "hash OFFSET LENGTH", "size", "keep MODE". It says "ok …" to
// each but "back", or "no REASON" and ends; "ok hash OFFSET HASH" comes some time before the answer
// to "size". When the client goes away nothing is kept.
extern const std::string k_put_script;
constexpr uint64_t k_piece = 64 << 10;
// "$1": port for the conversation, "$2": port with the data, "$3": file. Says "ok SIZE MODE" or
// "ok SIZE MODE hash", then "ok HASH" to a line "hash", and for every other line sends all of it
// and says "ok SIZE", or "no REASON".
extern const std::string k_get_script;

// What the client sends first on every port that the guest reads: a port that nobody has connected
// to, as the guest sees it, reads as if at its end.
constexpr const char* k_hello = "\n";

// What a script died of, as an error; nullopt for a signal that is the command's own affair.
std::optional<Error> script_failure(int signal, const std::string& directory,
                                    const std::string& user);

}  // namespace pv::vm
