// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include "base/text.hpp"
#include "base/units.hpp"
#include "target/event_stream.hpp"
#include "verbs.hpp"

namespace pv::vmcmd {
namespace {

struct EventsOptions {
  std::string name, since;
  bool follow = false;
};

// A table is made when all is there; who follows wants each line now.
Result<> print(cli::Context& context, const EventsOptions& options, const json& event) {
  if (!options.follow || !context.text_output())
    return context.emit({{"v", cli::k_document_version}, {"event", event}});
  const json* data = find(event, "data");
  return context.emit_raw(fmt::format("{:>6} {} {:<16} {}\n", get_u64(event, "seq"),
                                      get_string(event, "t_ns"), get_string(event, "event"),
                                      data ? to_line(*data) : ""));
}

Result<int> act(cli::Context& context, const EventsOptions& options) {
  TRY_ASSIGN(const target::VmTarget at, target::vm_target(context, options.name));
  uint64_t since = 0;
  if (!options.since.empty()) {
    TRY_ASSIGN(since, parse_count("--since", options.since));
  }
  target::EventStream stream(at.run, at.vm, since,
                             [&](const json& event) { return print(context, options, event); });
  TRY(stream.catch_up());
  if (options.follow) TRY(stream.follow());
  if (context.text_output() || context.selects_field()) return 0;
  TRY(context.emit({{"v", cli::k_document_version},
                    {"summary", {{"events", stream.count()}}},
                    {"vm", {{"name", at.vm.name}, {"scope", at.vm.scope}}}}));
  return 0;
}

}  // namespace

void build_events(cli::Verb& verb) {
  auto options = std::make_shared<EventsOptions>();
  verb.positional("name", options->name, "The VM (default: the one of the document on stdin)");
  verb.option("--since", options->since, "N", "Only events after number N");
  verb.flag("--follow", options->follow, "Go on printing until the VM is closed");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::vmcmd
