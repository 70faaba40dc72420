// SPDX-License-Identifier: MIT
// `lan`: a verb with actions, each a row of the table at the end.
#include "vm/lan/lan.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/text.hpp"
#include "base/units.hpp"
#include "lan_link.hpp"
#include "verbs.hpp"
#include "vm/vm_object.hpp"

namespace pv::vmcmd {
namespace {

constexpr uint64_t k_default_ns = 60 * k_ns_per_s;  // guests under TCG, several at once
constexpr uint64_t k_status_ns = 5 * k_ns_per_s;

struct LanOptions {
  std::string action;
  std::string name;
  std::vector<std::string> words;
  LinkFlags link;
  bool all = false;
};

struct Call {
  cli::Context& context;
  const LanOptions& options;
  Deadline deadline;
};

// Shows the lan as it is now, whatever was done to it.
Result<int> show(const Call& call, const Object& lan) {
  TRY_ASSIGN(call.context.document()["lan"], lan::lan_document(lan, Deadline::in_ns(k_status_ns)));
  TRY(call.context.emit());
  return 0;
}

// The lan, and the VMs that are named or else that of the document on stdin.
struct Parties {
  RunDir run;
  Object lan;
  std::vector<std::string> vms;
};
Result<Parties> parties(const Call& call) {
  std::vector<std::string> vms = call.options.words;
  TRY_ASSIGN(RunDir run, call.context.run_dir());
  if (vms.empty()) {
    TRY_ASSIGN(target::VmName at, target::vm_name(call.context, ""));
    vms.push_back(at.name);
    run = std::move(at.run);
  }
  TRY_ASSIGN(Object lan, lan::find_lan(run, call.options.name));
  return Parties{std::move(run), std::move(lan), std::move(vms)};
}

// The VM of a document that is passed on is shown as it is now.
Result<int> show_both(const Call& call, const Parties& parties) {
  if (call.context.has_input()) {
    TRY_ASSIGN(const Object vm, vm::find_vm(parties.run, parties.vms.front()));
    TRY_ASSIGN(call.context.document()["vm"], vm::vm_document(vm));
  }
  return show(call, parties.lan);
}

Result<int> create(const Call& call) {
  TRY_ASSIGN(const RunDir run, call.context.run_dir());
  TRY_ASSIGN(const Object lan, lan::create_lan(run, call.options.name, call.deadline));
  return show(call, lan);
}

Result<int> attach(const Call& call) {
  TRY_ASSIGN(const Parties found, parties(call));
  std::vector<Object> vms;
  for (const std::string& name : found.vms) {
    TRY_ASSIGN(Object vm, vm::find_vm(found.run, name));
    vms.push_back(std::move(vm));
  }
  TRY(lan::attach(found.lan, vms, call.deadline));
  return show_both(call, found);
}

Result<int> detach(const Call& call) {
  TRY_ASSIGN(const Parties found, parties(call));
  TRY(lan::detach(found.lan, found.vms, call.deadline));
  return show_both(call, found);
}

Result<int> link(const Call& call) {
  const std::vector<std::string>& words = call.options.words;
  if (words.empty() || words.size() > 2)
    return fail(Code::usage, "write 'lan link NAME VM' and 'up', 'down' or what is to change");
  TRY_ASSIGN(const lan::LinkChange change,
             link_change(call.options.link, words.size() == 2 ? words[1] : ""));
  TRY_ASSIGN(const RunDir run, call.context.run_dir());
  TRY_ASSIGN(const Object lan, lan::find_lan(run, call.options.name));
  TRY(lan::change_link(lan, words[0], change, call.deadline));
  return show(call, lan);
}

Result<int> info(const Call& call) {
  TRY_ASSIGN(const RunDir run, call.context.run_dir());
  TRY_ASSIGN(const Object lan, lan::find_lan(run, call.options.name));
  return show(call, lan);
}

Result<int> list(const Call& call) {
  TRY_ASSIGN(const RunDir run, call.context.run_dir());
  for (const Object& lan : run.list("lan", call.options.all)) {
    auto document = lan::lan_document(lan, Deadline::in_ns(k_status_ns));
    if (!document && document.error().code == Code::no_such_lan) continue;  // closed meanwhile
    if (!document) return fail(document.error());
    TRY(call.context.emit({{"v", cli::k_document_version}, {"lan", std::move(*document)}}));
  }
  return 0;
}

// A lan that does not exist is closed already.
Result<int> close(const Call& call) {
  TRY_ASSIGN(const RunDir run, call.context.run_dir());
  TRY(check_name("lan", call.options.name));
  const auto lan = run.find("lan", "", call.options.name);
  if (lan) TRY(lan::close_lan(run, *lan, call.deadline));
  call.context.document()["lan"] = {{"name", call.options.name},
                                    {"scope", lan ? lan->scope : run.scope()},
                                    {"state", "closed"},
                                    {"closed", lan.has_value()}};
  TRY(call.context.emit());
  return 0;
}

struct Row {
  const char* action;
  Result<int> (*run)(const Call&);
  bool named;  // needs the name of a lan
  bool words;  // takes more than that
};
constexpr Row k_actions[] = {
    {"create", create, true, false}, {"attach", attach, true, true}, {"detach", detach, true, true},
    {"link", link, true, true},      {"info", info, true, false},    {"list", list, false, false},
    {"close", close, true, false},
};

std::vector<std::string> action_names() {
  std::vector<std::string> names;
  for (const Row& row : k_actions) names.emplace_back(row.action);
  return names;
}

// What means nothing to an action is an error, not ignored.
Result<> check_words(const LanOptions& options, const Row& row) {
  const auto wrong = [&](const std::string& what) {
    return fail(Code::usage, fmt::format("'lan {}' {}", row.action, what));
  };
  if (row.named && options.name.empty()) return wrong("needs the name of a lan");
  if (!row.named && !options.name.empty()) return wrong("takes no name");
  if (!row.words && !options.words.empty())
    return wrong(fmt::format("takes no '{}'", printable(options.words.front())));
  if (options.all && options.action != "list") return wrong("takes no --all");
  if (options.link.given() && options.action != "link")
    return wrong("takes no --latency, --jitter, --loss or --seed");
  return {};
}

Result<int> act(cli::Context& context, const LanOptions& options) {
  for (const Row& row : k_actions) {
    if (options.action != row.action) continue;
    TRY(check_words(options, row));
    TRY_ASSIGN(const Deadline deadline, context.deadline(k_default_ns));
    return row.run(Call{context, options, deadline});
  }
  const std::vector<std::string> actions = action_names();
  const Error error(Code::usage, fmt::format("no action '{}'; there are: {}",
                                             printable(options.action), join(actions, " ")));
  return fail(error.with("valid", actions));
}

}  // namespace

void build_lan(cli::Verb& verb) {
  auto options = std::make_shared<LanOptions>();
  verb.positional("action", options->action, join(action_names(), ", "))->required();
  verb.positional("name", options->name, "The lan");
  verb.rest("vms", options->words,
            "VMs to attach or detach (default: the one of the document on stdin); "
            "for link one VM, and 'up' or 'down'");
  add_link_flags(verb, options->link);
  verb.flag("--all", options->all, "List the lans of every scope");
  verb.takes_many();
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::vmcmd
