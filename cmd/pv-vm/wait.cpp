// SPDX-License-Identifier: MIT
#include "vm/wait.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/text.hpp"
#include "base/units.hpp"
#include "verbs.hpp"
#include "vm/vm_object.hpp"

namespace pv::vmcmd {
namespace {

constexpr uint64_t k_wait_ns = 60 * k_ns_per_s;
constexpr int k_condition_false = 1;
const std::vector<std::string> k_states = {"created", "booted", "paused", "shutdown", "dead"};

struct WaitOptions {
  std::string name, states, event, since, console;
};

Result<vm::Condition> condition_of(const WaitOptions& options) {
  vm::Condition condition;
  const size_t given = static_cast<size_t>(!options.states.empty()) +
                       static_cast<size_t>(!options.event.empty()) +
                       static_cast<size_t>(!options.console.empty());
  if (given > 1) return fail(Code::usage, "wait for a state, an event or the console, not several");
  if (!options.since.empty() && options.event.empty())
    return fail(Code::usage, "--since belongs to --event");
  condition.event = options.event;
  condition.console = options.console;
  if (!options.since.empty()) {
    TRY_ASSIGN(condition.since, parse_count("--since", options.since));
  }
  if (given == 0) condition.states = {"shutdown", "dead"};
  if (!options.states.empty()) condition.states = split(options.states, ',');
  for (const std::string& state : condition.states)
    if (std::find(k_states.begin(), k_states.end(), state) == k_states.end())
      return fail(Code::usage, fmt::format("--state: unknown state '{}'; states: {}",
                                           printable(state), join(k_states, " ")));
  return condition;
}

Result<int> act(cli::Context& context, const WaitOptions& options) {
  TRY_ASSIGN(const vm::Condition condition, condition_of(options));
  TRY_ASSIGN(const Deadline deadline, context.deadline(k_wait_ns));
  TRY_ASSIGN(const target::VmTarget at, target::vm_target(context, options.name));
  TRY_ASSIGN(const vm::Waited waited, vm::wait_for(at.vm, condition, deadline));
  json& document = context.document();
  if (auto vm = vm::vm_document(at.vm))
    document["vm"] = std::move(*vm);
  else
    document["vm"] = {{"name", at.vm.name}, {"scope", at.vm.scope}, {"state", "shutdown"}};
  if (waited.closed) document["vm"]["closed"] = true;
  if (!waited.found.is_null())
    document[condition.event.empty() ? "console" : "event"] = waited.found;
  TRY(context.emit());
  return waited.holds ? 0 : k_condition_false;
}

}  // namespace

void build_wait(cli::Verb& verb) {
  auto options = std::make_shared<WaitOptions>();
  verb.positional("name", options->name, "The VM (default: the one of the document on stdin)");
  verb.option("--state", options->states, "STATE,...", "Until it is in one of these states");
  verb.option("--event", options->event, "NAME", "Until this event happens");
  verb.option("--since", options->since, "N", "Also an event that has a number above N");
  verb.option("--console", options->console, "REGEX",
              "Until a line of the console matches, from the last boot on");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::vmcmd
