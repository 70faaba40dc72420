// SPDX-License-Identifier: MIT
// findings, held and release: what a mirror or a history has found, and the requests that it keeps.
#include <fmt/format.h>

#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/line_journal.hpp"
#include "verbs.hpp"

namespace pv::verifycmd {
namespace {

constexpr uint64_t k_for_ever_ns = uint64_t{1} << 62;
constexpr size_t k_findings_at_once = 1024;

struct FindingsOptions {
  std::string disk, since;
  bool follow = false;
};

struct ReleaseOptions {
  std::string disk, error;
  std::vector<std::string> tickets;
};

using target::add_disk_flag;
using target::disk_reference;
using target::open_session;
using Session = target::DiskSession;

Result<> print(cli::Context& context, const json& where, uint64_t& since) {
  while (true) {
    TRY_ASSIGN(json events, blk::read_journal(where, since, k_findings_at_once));
    if (events.empty()) return {};
    for (json& event : events) {
      since = get_u64(event, "n");
      TRY(context.emit_line({{"v", cli::k_document_version}, {"finding", event}}));
    }
  }
}

Result<int> findings(cli::Context& context, const FindingsOptions& options) {
  uint64_t since = 0;
  if (!options.since.empty()) {
    TRY_ASSIGN(since, parse_count("--since", options.since));
  }
  TRY_ASSIGN(Session session,
             open_session(context, options.disk,
                          options.follow ? k_for_ever_ns : target::k_default_timeout_ns));
  // Asking has it look at the reference's file, which may be a finding.
  TRY(call_compared(session.at.disk, session.client, {{"op", "verify.status"}}));
  TRY_ASSIGN(json where,
             call_compared(session.at.disk, session.client, {{"op", "verify.journal"}}));
  TRY_ASSIGN(json status,
             call_compared(session.at.disk, session.client, {{"op", "verify.status"}}));
  TRY(print(context, where, since));
  while (options.follow) {
    auto more = call_compared(session.at.disk, session.client,
                              {{"op", "fault.wait"}, {"journal", "verify"}, {"since", since}});
    if (!more && more.error().code == Code::timeout) return fail(more.error());
    if (!more) return fail(Code::server_dead, "the disk's server has died");
    if (get_bool(*more, "ended")) break;
    where = std::move(*more);
    TRY(print(context, where, since));
    TRY_ASSIGN(status, call_compared(session.at.disk, session.client, {{"op", "verify.status"}}));
  }
  json summary = status["verify"];
  const bool good =
      get_u64(summary, "mismatches") == 0 && get_u64(summary, "status_differences") == 0 &&
      !get_bool(summary, "reference_changed_outside") && get_u64(summary, "damaged_entries") == 0 &&
      get_string(summary, "state") != "broken";
  summary["good"] = good;
  summary["dropped"] = where["dropped"];
  TRY(context.emit_line({{"v", cli::k_document_version},
                         {"summary", summary},
                         {"disk", disk_reference(session.at.disk)}}));
  return good ? 0 : 1;
}

Result<int> held(cli::Context& context, const std::string& disk) {
  TRY_ASSIGN(Session session, open_session(context, disk));
  TRY_ASSIGN(const json reply,
             call_compared(session.at.disk, session.client, {{"op", "verify.held"}}));
  for (const json& row : reply["held"])
    TRY(context.emit({{"v", cli::k_document_version},
                      {"held", row},
                      {"disk", disk_reference(session.at.disk)}}));
  return 0;
}

Result<int> release(cli::Context& context, const ReleaseOptions& options) {
  TRY_ASSIGN(Session session, open_session(context, options.disk));
  TRY_ASSIGN(const json tickets, target::parse_tickets(options.tickets));
  TRY_ASSIGN(const json reply, call_compared(session.at.disk, session.client,
                                             {{"op", "verify.release"},
                                              {"tickets", tickets},
                                              {"error", options.error},
                                              {"with_disk", true}}));
  TRY_ASSIGN(context.document()["disk"], target::disk_document_from(session.at.disk, reply));
  context.document()["released"] = reply["released"];
  TRY(context.emit());
  return 0;
}

}  // namespace

Result<json> call_compared(const Object& disk, serve::DiskClient& client, const json& request) {
  auto reply = client.call(request);
  if (reply || reply.error().code != Code::unsupported) return reply;
  return fail(Code::unsupported, fmt::format("disk '{}' is not compared with anything: pv-verify "
                                             "mirror makes one that is",
                                             disk.display()));
}

void build_findings(cli::Verb& verb) {
  auto options = std::make_shared<FindingsOptions>();
  add_disk_flag(verb, options->disk);
  verb.option("--since", options->since, "N", "Only findings after number N");
  verb.flag("--follow", options->follow, "Go on printing until the disk is closed");
  verb.run([options](cli::Context& context) { return findings(context, *options); });
}

void build_held(cli::Verb& verb) {
  auto disk = std::make_shared<std::string>();
  add_disk_flag(verb, *disk);
  verb.run([disk](cli::Context& context) { return held(context, *disk); });
}

void build_release(cli::Verb& verb) {
  auto options = std::make_shared<ReleaseOptions>();
  verb.rest("ticket", options->tickets, "Held requests, in this order (default: all)");
  add_disk_flag(verb, options->disk);
  verb.option("--error", options->error, "NAME", "Fail them with this errno instead");
  verb.run([options](cli::Context& context) { return release(context, *options); });
}

}  // namespace pv::verifycmd
