// SPDX-License-Identifier: MIT
#include <CLI/CLI.hpp>

#include "base/text.hpp"
#include "verbs.hpp"

namespace pv::faultcmd {
namespace {

struct Options {
  std::vector<std::string> ids;
  std::string disk;
};

Result<int> act(cli::Context& context, const Options& options) {
  TRY_ASSIGN(Session session, open_session(context, options.disk));
  std::vector<std::string> ids = options.ids;
  if (ids.empty()) ids.emplace_back();  // the empty id clears everything
  json cleared = json::array(), reply;
  for (const std::string& id : ids) {
    TRY_ASSIGN(reply,
               session.client.call({{"op", "fault.clear"}, {"id", id}, {"with_disk", true}}));
    for (const json& rule : reply["cleared"]) cleared.push_back(rule);
  }
  TRY_ASSIGN(context.document()["disk"], target::disk_document_from(session.at.disk, reply));
  context.document().erase("rule");  // it may be one that is no longer there
  context.document()["cleared"] = cleared;
  TRY(context.emit());
  return 0;
}

}  // namespace

void build_clear(cli::Verb& verb) {
  auto options = std::make_shared<Options>();
  verb.rest("id", options->ids, "The rules (default: all)");
  add_disk_flag(verb, options->disk);
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::faultcmd
