// SPDX-License-Identifier: MIT
#include "base/units.hpp"
#include "verbs.hpp"
#include "vm/boot.hpp"
#include "vm/scope/scope.hpp"

namespace pv::vmcmd {
namespace {

constexpr uint64_t k_close_ns = 30 * k_ns_per_s;

struct CloseOptions {
  std::vector<std::string> names;
  bool all = false;
};

// A VM that does not exist is closed already.
Result<json> close_one(const RunDir& run, const std::string& name, const Deadline& deadline) {
  TRY(check_name("vm", name));
  if (const auto vm = run.find("vm", "", name)) return vm::close_vm(run, *vm, deadline);
  return json({{"name", name},
               {"scope", run.scope()},
               {"state", "shutdown"},
               {"closed", false},
               {"forced", false}});
}

// Closes each; the first failure is reported when all have been tried.
Result<int> close_each(cli::Context& context, const RunDir& run,
                       const std::vector<std::string>& names, const Deadline& deadline) {
  std::optional<Error> first;
  for (const std::string& name : names) {
    auto closed = close_one(run, name, deadline);
    if (!closed) {
      if (!first) first = closed.error();
      continue;
    }
    context.document()["vm"] = std::move(*closed);
    if (names.size() == 1) break;
    TRY(context.emit());
  }
  if (first) return fail(*first);
  if (names.size() == 1) TRY(context.emit());
  return 0;
}

Result<int> act(cli::Context& context, const CloseOptions& options) {
  TRY_ASSIGN(const Deadline deadline, context.deadline(k_close_ns));
  if (options.all) {
    if (!options.names.empty()) return fail(Code::usage, "name VMs or give --all, not both");
    TRY_ASSIGN(const RunDir run, context.run_dir());
    std::vector<std::string> names;
    for (const Object& vm : run.list("vm"))
      if (vm.scope == run.scope()) names.push_back(vm.name);
    const Result<int> code = close_each(context, run, names, deadline);
    TRY(vm::close_orphans(run, deadline));
    return code;
  }
  if (!options.names.empty()) {
    TRY_ASSIGN(const RunDir run, context.run_dir());
    return close_each(context, run, options.names, deadline);
  }
  TRY_ASSIGN(const target::VmName at, target::vm_name(context, ""));
  return close_each(context, at.run, {at.name}, deadline);
}

}  // namespace

void build_close(cli::Verb& verb) {
  auto options = std::make_shared<CloseOptions>();
  verb.rest("names", options->names, "VMs (default: the one of the document on stdin)");
  verb.flag("--all", options->all, "Every VM of the scope");
  verb.takes_many();
  verb.run([options](cli::Context& context) { return act(context, *options); });
}

}  // namespace pv::vmcmd
