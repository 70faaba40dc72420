// SPDX-License-Identifier: MIT
#include "base/text.hpp"
#include "verbs.hpp"

namespace pv::faultcmd {
namespace {

struct ClearOptions {
  std::vector<std::string> ids;
  std::string disk;
  bool repair = false;
};

// What the faults have left on the disk is put right, and is there when this returns.
Result<> finish_repair(Session& session, uint64_t repaired, json& document) {
  TRY(session.client.call({{"op", "settle"}}));
  TRY_ASSIGN(const json left, session.client.call({{"op", "fault.truth"}}));
  document["repair"] = {{"repaired_bytes", repaired},
                        {"damaged_bytes", left["damaged_bytes"]},
                        {"not_kept_bytes", left["not_kept_bytes"]}};
  return {};
}

Result<int> act(cli::Context& context, const ClearOptions& options) {
  TRY_ASSIGN(Session session, open_session(context, options.disk));
  std::vector<std::string> ids = options.ids;
  if (ids.empty()) ids.emplace_back();  // the empty id clears everything
  json cleared = json::array(), reply;
  uint64_t repaired = 0;
  for (const std::string& id : ids) {
    TRY_ASSIGN(
        reply,
        session.client.call(
            {{"op", "fault.clear"}, {"id", id}, {"repair", options.repair}, {"with_disk", true}}));
    for (const json& rule : reply["cleared"]) cleared.push_back(rule);
    repaired += get_u64(reply, "repaired_bytes");
  }
  TRY_ASSIGN(context.document()["disk"], target::disk_document_from(session.at.disk, reply));
  context.document().erase("rule");  // it may be one that is no longer there
  context.document().erase("rules");
  context.document()["cleared"] = cleared;
  if (options.repair) TRY(finish_repair(session, repaired, context.document()));
  TRY(context.emit());
  return 0;
}

}  // namespace

void build_clear(cli::Verb& verb) {
  auto options = std::make_shared<ClearOptions>();
  verb.rest("id", options->ids, "The rules (default: all)");
  add_disk_flag(verb, options->disk);
  verb.flag("--repair", options->repair, "Put right what the rules have left wrong on the disk");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::faultcmd
