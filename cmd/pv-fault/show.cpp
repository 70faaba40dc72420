// SPDX-License-Identifier: MIT
// list, active, kinds: the verbs that only look.
#include <algorithm>

#include "blk/fault/kinds.hpp"
#include "verbs.hpp"

namespace pv::faultcmd {
namespace {

Result<int> list(cli::Context& context, const std::string& disk) {
  TRY_ASSIGN(Session session, open_session(context, disk));
  TRY_ASSIGN(const json reply, session.client.call({{"op", "fault.list"}}));
  for (const json& rule : reply["rules"])
    TRY(context.emit({{"v", cli::k_document_version},
                      {"rule", rule},
                      {"disk", disk_reference(session.at.disk)}}));
  return 0;
}

Result<int> active(cli::Context& context, const std::string& disk) {
  TRY_ASSIGN(Session session, open_session(context, disk));
  TRY_ASSIGN(const json reply, session.client.call({{"op", "fault.list"}, {"with_disk", true}}));
  TRY_ASSIGN(json document, target::disk_document_from(session.at.disk, reply));
  std::vector<std::string> names = document["faults"].get<std::vector<std::string>>();
  std::sort(names.begin(), names.end());
  document["faults"] = names;
  context.document()["disk"] = document;
  TRY(context.emit());
  return 0;
}

Result<int> kinds(cli::Context& context) {
  for (const blk::KindRow& row : blk::fault_kinds())
    TRY(context.emit({{"v", cli::k_document_version},
                      {"kind",
                       {{"name", row.name},
                        {"does", row.help},
                        {"keys", row.keys},
                        {"host", row.host},
                        {"nbd", row.nbd},
                        {"guest", row.guest},
                        {"vhost_user", row.vhost}}}}));
  for (const std::string& mode : blk::valid_modes())
    if (auto rule = blk::shorthand_rule(mode))
      TRY(context.emit(
          {{"v", cli::k_document_version},
           {"kind", {{"name", mode}, {"does", "shorthand"}, {"keys", nullptr}, {"rule", *rule}}}}));
  return 0;
}

template <class Act>
void build_look(cli::Verb& verb, Act act) {
  auto disk = std::make_shared<std::string>();
  add_disk_flag(verb, *disk);
  verb.run([disk, act](cli::Context& context) { return act(context, *disk); });
}

}  // namespace

void build_list(cli::Verb& verb) {
  build_look(verb, list);
}
void build_active(cli::Verb& verb) {
  build_look(verb, active);
}

void build_kinds(cli::Verb& verb) {
  verb.run([](cli::Context& context) { return kinds(context); });
}

}  // namespace pv::faultcmd
