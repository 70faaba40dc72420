// SPDX-License-Identifier: MIT
#include <unistd.h>

#include "base/file.hpp"
#include "base/text.hpp"
#include "verbs.hpp"
#include "vm/client.hpp"
#include "vm/guest_run.hpp"
#include "vm/vm_object.hpp"

namespace pv::vmcmd {
namespace {

constexpr uint64_t k_run_ns = 24 * 3600 * k_ns_per_s;
constexpr size_t k_max_stdin = 16 << 20;  // qemu-ga takes the input in one message
constexpr int k_tool_failed = 255;        // as ssh(1) does

struct Options {
  std::string name;
  bool raw = false;
  bool pass_stdin = false;
  std::vector<std::string> env;
  std::vector<std::string> argv;
};

// The bytes of a stream of the result, whether or not they are UTF-8.
std::string stream_bytes(const json& run, const std::string& key) {
  if (const std::string b64 = get_string(run, key + "_b64"); !b64.empty())
    return base64_decode(b64).value_or("");
  return get_string(run, key);
}

Result<int> finish(cli::Context& context, const Options& options, json run) {
  const auto status = static_cast<int>(get_u64(run, "exit_status", k_tool_failed));
  if (options.raw) {
    static_cast<void>(write_all(STDERR_FILENO, stream_bytes(run, "stderr")));
    TRY(context.emit_raw(stream_bytes(run, "stdout")));
    return status;
  }
  context.document()["run"] = std::move(run);
  TRY(context.emit());
  return status;
}

Result<int> act(cli::Context& context, const Options& options) {
  if (options.raw) context.raw_output();
  TRY_ASSIGN(const target::VmTarget at, target::vm_target(context, options.name));
  vm::GuestCommand command;
  command.argv = options.argv;
  command.env = options.env;
  for (const std::string& entry : command.env)
    if (entry.find('=') == std::string::npos || entry[0] == '=')
      return fail(Code::usage, fmt::format("--env: '{}' is not KEY=VALUE", printable(entry)));
  TRY_ASSIGN(command.timeout_ns, context.timeout_ns(k_run_ns));
  if (options.pass_stdin) {
    if (options.name.empty() && !context.input_from_file())
      return fail(Code::usage, "--stdin needs a VM name or --in: stdin held the document");
    TRY_ASSIGN(command.input, read_all(STDIN_FILENO, k_max_stdin, "stdin"));
    command.has_input = true;
  }
  TRY_ASSIGN(const json state, at.vm.load());
  TRY(vm::require_state(at.vm, state, "run", {"booted"}));
  TRY_ASSIGN(json run, vm::run_in_guest(at.vm, command));
  if (context.document().contains("vm") || !options.raw) {
    TRY_ASSIGN(context.document()["vm"], vm::vm_document(at.vm));
  }
  return finish(context, options, std::move(run));
}

}  // namespace

void build_run(cli::Verb& verb) {
  auto options = std::make_shared<Options>();
  verb.failure_exit(k_tool_failed);
  verb.positional("name", options->name, "The VM (default: the one of the document on stdin)");
  verb.tail("command", options->argv, "The command and its arguments, after '--'");
  verb.flag("--raw", options->raw, "Print the command's own output instead of a document");
  verb.flag("--stdin", options->pass_stdin, "Give our stdin to the command (up to 16 MiB)");
  verb.option("--env", options->env, "KEY=VALUE",
              "Set a variable of the command's environment (can be repeated)");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::vmcmd
