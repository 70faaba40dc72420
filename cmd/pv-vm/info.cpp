// SPDX-License-Identifier: MIT
// `info` and `list`.
#include "base/text.hpp"
#include "verbs.hpp"
#include "vm/client.hpp"
#include "vm/vm_object.hpp"

namespace pv::vmcmd {
namespace {

constexpr uint64_t k_status_ns = 5 * k_ns_per_s;

// The document with what only the supervisor knows. A VM that ends just now is shown as dead.
Result<json> live_document(const Object& vm) {
  TRY_ASSIGN(json document, vm::vm_document(vm));
  if (get_string(document, "state") != "booted") return document;
  auto status = vm::call_supervisor(vm, {{"op", "status"}}, Deadline::in_ns(k_status_ns), "info");
  if (!status && status.error().code == Code::guest_died) return vm::vm_document(vm);
  if (!status) return fail(status.error());
  const uint64_t runs = get_u64(*status, "runs");
  document["open_streams"] = runs;
  document["quiescent"] = runs == 0;
  document["agent"] = get_string(*status, "agent");
  return document;
}

}  // namespace

void build_info(cli::Verb& verb) {
  auto name = std::make_shared<std::string>();
  verb.positional("name", *name, "The VM (default: the one of the document on stdin)");
  verb.takes_many();
  verb.run([name](cli::Context& context) -> Result<int> {
    TRY_ASSIGN(const target::VmTarget at, target::vm_target(context, *name));
    TRY_ASSIGN(context.document()["vm"], live_document(at.vm));
    TRY(context.emit());
    return 0;
  });
}

void build_list(cli::Verb& verb) {
  auto all = std::make_shared<bool>(false);
  verb.flag("--all", *all, "The VMs of every scope");
  verb.run([all](cli::Context& context) -> Result<int> {
    TRY_ASSIGN(const RunDir run, context.run_dir());
    for (const Object& vm : run.list("vm", *all)) {
      auto document = vm::vm_document(vm);
      if (!document) continue;  // closed while we look
      // The last words of a dead VM belong to `info`.
      for (const char* key : {"console_tail", "stderr", "cmdline", "cmdline_append", "qemu_args"})
        document->erase(key);
      TRY(context.emit({{"v", cli::k_document_version}, {"vm", std::move(*document)}}));
    }
    return 0;
  });
}

}  // namespace pv::vmcmd
