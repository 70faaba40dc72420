// SPDX-License-Identifier: MIT
#include "vm/client.hpp"

#include <cstdlib>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/process.hpp"
#include "base/socket.hpp"
#include "base/text.hpp"
#include "vm/access/scripts.hpp"
#include "vm/supervisor/guest_run.hpp"
#include "vm/vm_object.hpp"

namespace pv::vm {
namespace {

// The supervisor's own deadline comes first; ours only guards against a stuck supervisor.
constexpr uint64_t k_client_slack_ns = 3 * k_ns_per_s;

// The supervisor writes end.json before it lets go of its connections, so it can be read at once.
Error gone(const Object& vm, std::string_view what) {
  return guest_died_error(vm, what);
}

}  // namespace

Result<json> call_supervisor(const Object& vm, json request, const Deadline& deadline,
                             std::string_view what) {
  request["timeout_ms"] = deadline.left_ns() / k_ns_per_ms;
  const Deadline ours = Deadline::in_ns(deadline.left_ns() > UINT64_MAX - k_client_slack_ns
                                            ? UINT64_MAX
                                            : deadline.left_ns() + k_client_slack_ns);
  auto client = LineClient::connect(vm.path(k_control_socket), ours);
  if (!client && client.error().code == Code::system) return fail(gone(vm, what));
  if (!client) return fail(client.error());
  auto reply = client->call(request, ours);
  if (!reply && reply.error().code == Code::server_dead) return fail(gone(vm, what));
  return reply;
}

Result<json> call_qmp(const Object& vm, std::string_view command, json arguments,
                      const Deadline& deadline) {
  TRY_ASSIGN(json reply,
             call_supervisor(
                 vm, {{"op", "qmp"}, {"execute", command}, {"arguments", std::move(arguments)}},
                 deadline, command));
  return reply["return"];
}

Result<json> call_agent(const Object& vm, std::string_view command, json arguments,
                        const Deadline& deadline) {
  TRY_ASSIGN(json reply,
             call_supervisor(
                 vm, {{"op", "agent"}, {"execute", command}, {"arguments", std::move(arguments)}},
                 deadline, command));
  return reply["return"];
}

void name_caller(json& request) {
  if (const char* caller = getenv("PV_CALLER"); caller && *caller) request["caller"] = caller;
}

Result<json> run_request(const std::vector<std::string>& argv) {
  for (const std::string& word : argv)
    if (!is_utf8(word))
      return fail(Code::unsupported, "an argument is not UTF-8; the guest agent cannot carry it");
  json request = {{"op", "run"}, {"argv", argv}};
  name_caller(request);
  return request;
}

Result<json> run_in_guest(const Object& vm, const GuestCommand& command) {
  std::vector<std::string> argv = command.argv;
  if (!command.directory.empty() || !command.user.empty())
    argv.insert(argv.begin(),
                {"/bin/sh", "-c", k_captured_script, "pv-vm run", command.directory, command.user});
  TRY_ASSIGN(json request, run_request(argv));
  if (!command.env.empty()) request["env"] = command.env;
  if (command.has_input) request["stdin_b64"] = base64_encode(command.input);
  const auto reply =
      call_supervisor(vm, std::move(request), Deadline::in_ns(command.timeout_ns), "run");
  if (reply) {
    const json status = reply->value("status", json::object());
    const auto signal = static_cast<int>(get_u64(status, "signal"));
    if (const auto failure = script_failure(signal, command.directory, command.user))
      return fail(*failure);
    return run_document(command.argv, status);
  }
  const Error& error = reply.error();
  if (error.code == Code::agent)
    if (auto failure = start_failure(command.argv, error.message)) return std::move(*failure);
  const json* status = error.extra ? find(*error.extra, "status") : nullptr;
  if (!status) return fail(error);
  return fail(Error(error.code, error.message).with("run", run_document(command.argv, *status)));
}

}  // namespace pv::vm
