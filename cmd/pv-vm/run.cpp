// SPDX-License-Identifier: MIT
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/text.hpp"
#include "verbs.hpp"
#include "vm/access/stream.hpp"
#include "vm/client.hpp"
#include "vm/supervisor/guest_run.hpp"
#include "vm/vm_object.hpp"

namespace pv::vmcmd {
namespace {

constexpr uint64_t k_run_ns = 24 * 3600 * k_ns_per_s;
constexpr size_t k_max_stdin = 16 << 20;  // qemu-ga takes the input in one message
constexpr int k_tool_failed = 255;        // as ssh(1) does

struct RunOptions {
  std::string name;
  bool raw = false;
  bool pass_stdin = false;
  bool stream = false;
  std::string cwd, user;
  std::vector<std::string> env;
  std::vector<std::string> argv;
};

Result<int> finish(cli::Context& context, json run) {
  const auto status = static_cast<int>(get_u64(run, "exit_status", k_tool_failed));
  context.document()["run"] = std::move(run);
  TRY(context.emit());
  return status;
}

// --raw and --stream: the output as it comes.
Result<json> run_streaming(cli::Context& context, const RunOptions& options, const Object& vm,
                           vm::GuestCommand command) {
  vm::StreamCommand stream;
  stream.argv = std::move(command.argv);
  stream.env = std::move(command.env);
  stream.directory = std::move(command.directory);
  stream.user = std::move(command.user);
  stream.timeout_ns = command.timeout_ns;
  stream.input = options.pass_stdin ? STDIN_FILENO : -1;
  stream.output = STDOUT_FILENO;
  if (options.raw)
    return vm::stream_in_guest(vm, stream,
                               [&](vm::Stream from, std::string_view bytes) -> Result<> {
                                 if (from == vm::Stream::out) return context.emit_raw(bytes);
                                 return write_all(STDERR_FILENO, bytes);
                               });
  return vm::stream_in_guest(vm, stream, [&](vm::Stream from, std::string_view bytes) {
    json output = {{"stream", from == vm::Stream::out ? "stdout" : "stderr"}};
    if (is_utf8(bytes))
      output["text"] = bytes;
    else
      output["b64"] = base64_encode(bytes);
    return context.emit({{"v", cli::k_document_version}, {"output", std::move(output)}});
  });
}

Result<> check(const RunOptions& options, cli::Context& context) {
  for (const std::string& entry : options.env)
    if (entry.find('=') == std::string::npos || entry[0] == '=')
      return fail(Code::usage, fmt::format("--env: '{}' is not KEY=VALUE", printable(entry)));
  if (options.raw && options.stream) return fail(Code::usage, "--raw or --stream, not both");
  if (options.pass_stdin && options.name.empty() && !context.input_from_file())
    return fail(Code::usage, "--stdin needs a VM name or --in: stdin held the document");
  if (!options.cwd.empty() && options.cwd[0] != '/')
    return fail(Code::usage, fmt::format("--cwd: '{}' is not absolute", printable(options.cwd)));
  return {};
}

Result<int> act(cli::Context& context, const RunOptions& options) {
  if (options.raw) context.raw_output();
  TRY_ASSIGN(const target::VmTarget at, target::vm_target(context, options.name));
  TRY(check(options, context));
  vm::GuestCommand command;
  command.argv = options.argv;
  command.env = options.env;
  command.directory = options.cwd;
  command.user = options.user;
  TRY_ASSIGN(command.timeout_ns, context.timeout_ns(k_run_ns));
  TRY_ASSIGN(const json state, at.vm.load());
  TRY(vm::require_state(at.vm, state, "run", {"booted"}));
  if (options.pass_stdin && !options.raw && !options.stream) {
    TRY_ASSIGN(command.input, read_all(STDIN_FILENO, k_max_stdin, "stdin"));
    command.has_input = true;
  }
  TRY_ASSIGN(json run, options.raw || options.stream
                           ? run_streaming(context, options, at.vm, std::move(command))
                           : vm::run_in_guest(at.vm, command));
  if (options.raw) return static_cast<int>(get_u64(run, "exit_status", k_tool_failed));
  TRY_ASSIGN(context.document()["vm"], vm::vm_document(at.vm));
  return finish(context, std::move(run));
}

}  // namespace

void build_run(cli::Verb& verb) {
  auto options = std::make_shared<RunOptions>();
  verb.failure_exit(k_tool_failed);
  verb.positional("name", options->name, "The VM (default: the one of the document on stdin)");
  verb.tail("command", options->argv, "The command and its arguments, after '--'");
  verb.flag("--raw", options->raw, "Print the command's own output instead of a document");
  verb.flag("--stream", options->stream,
            "Print a document for each piece of output as it comes, then the result");
  verb.flag("--stdin", options->pass_stdin,
            "Give our stdin to the command (up to 16 MiB without --raw or --stream)");
  verb.option("--cwd", options->cwd, "DIR", "Directory of the guest to run it in (absolute)");
  verb.option("--user", options->user, "NAME", "User of the guest to run it as (default: root)");
  verb.option("--env", options->env, "KEY=VALUE",
              "Set a variable of the command's environment (can be repeated)");
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::vmcmd
