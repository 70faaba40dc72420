// SPDX-License-Identifier: MIT
#include "vm/access/console.hpp"

#include <unistd.h>

#include "base/units.hpp"
#include "verbs.hpp"
#include "vm/vm_object.hpp"

namespace pv::vmcmd {
namespace {

struct ConsoleOptions {
  std::string name;
  std::string tail;
  bool follow = false, attach = false;
};

Result<int> act(cli::Context& context, const ConsoleOptions& options) {
  context.raw_output();
  if (options.attach && (options.follow || !options.tail.empty()))
    return fail(Code::usage, "--attach goes without --follow and --tail");
  if (options.attach && options.name.empty() && !context.input_from_file())
    return fail(Code::usage, "--attach needs a VM name or --in: stdin is the console's");
  TRY_ASSIGN(const target::VmTarget at, target::vm_target(context, options.name));
  const auto print = [&](std::string_view bytes) { return context.emit_raw(bytes); };
  if (options.attach) {
    TRY_ASSIGN(const json state, at.vm.load());
    TRY(vm::require_state(at.vm, state, "console --attach", {"booted", "paused"}));
    TRY(vm::attach_console(at.vm, STDIN_FILENO, STDOUT_FILENO, print));
    return 0;
  }
  uint64_t tail = UINT64_MAX;
  if (!options.tail.empty()) {
    TRY_ASSIGN(tail, parse_size(options.tail));
  }
  TRY(vm::print_console(at.vm, tail, options.follow, STDOUT_FILENO, print));
  return 0;
}

}  // namespace

void build_console(cli::Verb& verb) {
  auto options = std::make_shared<ConsoleOptions>();
  verb.positional("name", options->name, "The VM (default: the one of the document on stdin)");
  verb.option("--tail", options->tail, "SIZE", "Only this much of its end");
  verb.flag("--follow", options->follow, "Go on with what is printed, until the VM ends");
  verb.flag("--attach", options->attach, "Join stdin and stdout to the console; Ctrl-] ends that");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::vmcmd
