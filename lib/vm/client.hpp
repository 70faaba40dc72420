// SPDX-License-Identifier: MIT
// A command's side of the supervisor's control socket (control.hpp, supervisor.hpp).
#pragma once

#include <string_view>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "base/run_dir.hpp"

namespace pv::vm {

// Sends one request and returns its reply. The supervisor is told the time left ("timeout_ms") and
// answers in time itself; we wait a little longer. Code::guest_died when it goes away meanwhile.
// `what` names the request in messages ("run").
Result<json> call_supervisor(const Object& vm, json request, const Deadline& deadline,
                             std::string_view what);

// One QMP command through the supervisor; its return value.
Result<json> call_qmp(const Object& vm, std::string_view command, json arguments,
                      const Deadline& deadline);

// One guest agent command; its return value.
Result<json> call_agent(const Object& vm, std::string_view command, json arguments,
                        const Deadline& deadline);

// A request for `run` with these words and who asks for it ($PV_CALLER). Code::unsupported for
// words that are not UTF-8: on their way they would be replaced.
Result<json> run_request(const std::vector<std::string>& argv);
// Adds who asks, to a request that is kept for a while.
void name_caller(json& request);

// Runs a command in the guest; the `run` object of a document.
struct GuestCommand;
Result<json> run_in_guest(const Object& vm, const GuestCommand& command);

}  // namespace pv::vm
