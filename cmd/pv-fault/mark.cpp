// SPDX-License-Identifier: MIT
// mark and state: what rules of a disk may wait for.
#include "verbs.hpp"

namespace pv::faultcmd {
namespace {

struct MarkOptions {
  std::string name, disk;
};

Result<int> mark(cli::Context& context, const MarkOptions& options) {
  if (options.name.empty()) return fail(Code::usage, "say which mark");
  TRY_ASSIGN(Session session, open_session(context, options.disk));
  TRY_ASSIGN(const json reply, session.client.call({{"op", "fault.mark"}, {"name", options.name}}));
  context.document()["mark"] = {{"name", reply["mark"]}, {"count", reply["count"]}};
  context.document()["disk"] = disk_reference(session.at.disk);
  TRY(context.emit());
  return 0;
}

Result<int> state(cli::Context& context, const MarkOptions& options) {
  TRY_ASSIGN(Session session, open_session(context, options.disk));
  TRY(session.client.call({{"op", "fault.state"}, {"name", options.name}}));
  TRY_ASSIGN(const json reply, session.client.call({{"op", "fault.list"}}));
  context.document()["state"] = {{"name", reply["state"]}, {"marks", reply["marks"]}};
  context.document()["disk"] = disk_reference(session.at.disk);
  TRY(context.emit());
  return 0;
}

template <class Act>
void build_named(cli::Verb& verb, const char* help, Act act) {
  auto options = std::make_shared<MarkOptions>();
  verb.positional("name", options->name, help);
  add_disk_flag(verb, options->disk);
  verb.run([options, act](cli::Context& context) { return act(context, *options); });
}

}  // namespace

void build_mark(cli::Verb& verb) {
  build_named(verb, "The mark", mark);
}

void build_state(cli::Verb& verb) {
  build_named(verb, "The state to go to (default: only show it, and the marks)", state);
}

}  // namespace pv::faultcmd
