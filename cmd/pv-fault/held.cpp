// SPDX-License-Identifier: MIT
// held and release: requests that a stall keeps.
#include "base/units.hpp"
#include "verbs.hpp"

namespace pv::faultcmd {
namespace {

struct ReleaseOptions {
  std::string disk, error;
  std::vector<std::string> tickets;
  bool drop = false;
};

Result<int> held(cli::Context& context, const std::string& disk) {
  TRY_ASSIGN(Session session, open_session(context, disk));
  TRY_ASSIGN(const json reply, session.client.call({{"op", "fault.held"}}));
  for (const json& row : reply["held"])
    TRY(context.emit({{"v", cli::k_document_version},
                      {"held", row},
                      {"disk", disk_reference(session.at.disk)}}));
  return 0;
}

Result<int> release(cli::Context& context, const ReleaseOptions& options) {
  if (options.drop && !options.error.empty())
    return fail(Code::usage, "--error and --drop exclude each other");
  TRY_ASSIGN(Session session, open_session(context, options.disk));
  TRY_ASSIGN(const json tickets, target::parse_tickets(options.tickets));
  TRY_ASSIGN(const json reply, session.client.call({{"op", "fault.release"},
                                                    {"tickets", tickets},
                                                    {"error", options.error},
                                                    {"drop", options.drop},
                                                    {"with_disk", true}}));
  TRY_ASSIGN(context.document()["disk"], target::disk_document_from(session.at.disk, reply));
  context.document()["released"] = reply["released"];
  TRY(context.emit());
  return 0;
}

}  // namespace

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
  verb.flag("--drop", options->drop, "Acknowledge them without carrying them out");
  verb.run([options](cli::Context& context) { return release(context, *options); });
}

}  // namespace pv::faultcmd
