// SPDX-License-Identifier: MIT
#include "vm/scope/scope.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/rng.hpp"
#include "base/text.hpp"
#include "verbs.hpp"

namespace pv::vmcmd {
namespace {

constexpr uint64_t k_teardown_ns = 60 * k_ns_per_s;

struct ScopeOptions {
  std::string operation;
  std::string name;
  std::vector<std::string> argv;
};

// A name that was not given: for `run` a fresh one, for the others the current scope itself.
Result<std::string> path_of(const RunDir& run, const ScopeOptions& options) {
  if (!options.name.empty()) return vm::scope_path(run, options.name);
  return run.scope();
}

Result<int> run_command(cli::Context& context, const ScopeOptions& options) {
  if (options.argv.empty())
    return fail(Code::usage, "put the command after '--': pv-vm scope run NAME -- COMMAND");
  context.raw_output();  // stdout is the command's
  TRY_ASSIGN(const RunDir run, context.run_dir());
  TRY_ASSIGN(const uint64_t teardown_ns, context.timeout_ns(k_teardown_ns));
  const std::string fresh = fmt::format("run-{:08x}", static_cast<uint32_t>(fresh_seed()));
  TRY_ASSIGN(const std::string path,
             vm::scope_path(run, options.name.empty() ? fresh : options.name));
  return vm::run_in_scope(path, options.argv, teardown_ns);
}

Result<int> close_scope(cli::Context& context, const ScopeOptions& options) {
  TRY_ASSIGN(const RunDir run, context.run_dir());
  TRY_ASSIGN(const Deadline deadline, context.deadline(k_teardown_ns));
  TRY_ASSIGN(const std::string path, path_of(run, options));
  vm::Teardown done = vm::tear_down(run, path, vm::Ends::commands, deadline);
  context.document()["scope"] = std::move(done.document);
  if (done.error) return fail(*done.error);
  TRY(context.emit());
  return 0;
}

Result<int> list_scopes(cli::Context& context, const ScopeOptions& options) {
  TRY_ASSIGN(const RunDir run, context.run_dir());
  const bool everywhere = options.name.empty() && run.scope() == "default";
  std::string top;
  if (!everywhere) {
    TRY_ASSIGN(top, path_of(run, options));
  }
  for (json& scope : vm::scope_documents(run, top))
    TRY(context.emit({{"v", cli::k_document_version}, {"scope", std::move(scope)}}));
  return 0;
}

}  // namespace

void build_scope(cli::Verb& verb) {
  auto options = std::make_shared<ScopeOptions>();
  verb.positional("operation", options->operation,
                  "run: a command in a fresh scope; close: end all that is in one; list: show them")
      ->required();
  verb.positional("scope_name", options->name,
                  "Below the current scope (default: a fresh one to run in, the current to close)");
  verb.optional_tail("command", options->argv, "The command to run and its arguments, after '--'");
  verb.run([options](cli::Context& context) -> Result<int> {
    if (options->operation == "run") return run_command(context, *options);
    if (!options->argv.empty())
      return fail(Code::usage, "only 'scope run' takes a command after '--'");
    if (options->operation == "close") return close_scope(context, *options);
    if (options->operation == "list") return list_scopes(context, *options);
    const std::vector<std::string> known = {"run", "close", "list"};
    return fail(Error(Code::usage, fmt::format("unknown operation '{}'; there are: {}",
                                               printable(options->operation), join(known, " ")))
                    .with("valid", known));
  });
}

}  // namespace pv::vmcmd
