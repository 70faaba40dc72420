// SPDX-License-Identifier: MIT
// reserve: persistent reservations, as a host would make them with PERSISTENT RESERVE OUT and IN.
#include <fmt/format.h>

#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/reservation.hpp"
#include "serve/client.hpp"
#include "verbs.hpp"

namespace pv::diskcmd {
namespace {

struct ReserveOptions {
  std::string action, disk, host_key, key, new_key, type;
  bool ptpl = false;
};

struct ActionRow {
  const char* name;
  const char* op;
  bool key, new_key, type;  // which flags it needs
};
constexpr ActionRow k_actions[] = {
    {"report", "reserve.report", false, false, false},
    {"register", "reserve.register", false, true, false},
    {"register-ignore", "reserve.register_ignore", false, true, false},
    {"reserve", "reserve.reserve", true, false, true},
    {"release", "reserve.release", true, false, true},
    {"clear", "reserve.clear", true, false, false},
    {"preempt", "reserve.preempt", true, true, true},
    {"preempt-abort", "reserve.preempt_abort", true, true, true},
};

Result<const ActionRow*> find_action(const std::string& name) {
  std::vector<std::string> known;
  for (const ActionRow& row : k_actions) {
    if (name == row.name) return &row;
    known.emplace_back(row.name);
  }
  return fail(Error(Code::usage, fmt::format("reserve: unknown action '{}' (actions: {})",
                                             printable(name), join(known, " ")))
                  .with("valid", known));
}

Result<json> request_of(const ActionRow& row, const ReserveOptions& options) {
  const auto missing = [&](const char* flag) {
    return fail(Code::usage, fmt::format("reserve {} needs {}", row.name, flag));
  };
  if (row.op != std::string_view("reserve.report") && options.host_key.empty())
    return missing("--host-key");
  if (row.key && options.key.empty()) return missing("--key");
  if (row.new_key && options.new_key.empty()) return missing("--new-key");
  if (row.type && options.type.empty()) return missing("--type");
  if (options.ptpl && options.action.rfind("register", 0) != 0)
    return fail(Code::usage, "--ptpl belongs to register and register-ignore");
  json request = {{"op", row.op}, {"ptpl", options.ptpl}};
  const auto add = [&](const char* key, const std::string& value) {
    if (!value.empty()) request[key] = value;
  };
  // Checked here too: a mistake is told before a server is asked.
  if (!options.host_key.empty()) TRY(check_name("--host-key", options.host_key));
  if (!options.key.empty()) TRY(blk::parse_reserve_key("--key", options.key));
  if (!options.new_key.empty()) TRY(blk::parse_reserve_key("--new-key", options.new_key));
  if (!options.type.empty()) TRY(blk::reserve_type_from_name(options.type));
  add("key", options.key);
  add("new_key", options.new_key);
  add("type", options.type);
  return request;
}

Result<int> act(cli::Context& context, const ReserveOptions& options) {
  TRY_ASSIGN(const ActionRow* row, find_action(options.action));
  TRY_ASSIGN(const json request, request_of(*row, options));
  TRY_ASSIGN(const target::DiskTarget at, target::disk_target(context, options.disk));
  TRY_ASSIGN(const Deadline deadline, context.deadline(target::k_default_timeout_ns));
  TRY_ASSIGN(serve::DiskClient client, serve::DiskClient::connect(at.disk, deadline));
  client.set_host_key(options.host_key);
  TRY_ASSIGN(const json reply, client.call(request));
  TRY_ASSIGN(context.document()["disk"], target::live_disk_document(at.disk, deadline));
  json& reservation = context.document()["reservation"];
  reservation = reply["reservation"];
  if (const json* aborted = find(reply, "aborted")) reservation["aborted"] = *aborted;
  TRY(context.emit());
  return 0;
}

}  // namespace

void build_reserve(cli::Verb& verb) {
  auto options = std::make_shared<ReserveOptions>();
  verb.positional("action", options->action,
                  "report, register, register-ignore, reserve, release, clear, preempt or "
                  "preempt-abort");
  verb.positional("disk", options->disk, "The disk (default: the one of the document on stdin)");
  verb.option("--host-key", options->host_key, "NAME", "The host that asks");
  verb.option("--key", options->key, "N", "The key that the host is registered with");
  verb.option("--new-key", options->new_key, "N",
              "The key to register, 0 to unregister; the key of those to preempt");
  verb.option("--type", options->type, "NAME", "Type of the reservation");
  verb.flag("--ptpl", options->ptpl, "Let registrations persist through a power loss");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::diskcmd
