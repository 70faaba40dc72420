// SPDX-License-Identifier: MIT
// `info` and `list`.
#include "base/text.hpp"
#include "target/accounting.hpp"
#include "verbs.hpp"
#include "vm/vm_object.hpp"

namespace pv::vmcmd {

void build_info(cli::Verb& verb) {
  auto name = std::make_shared<std::string>();
  verb.positional("name", *name, "The VM (default: the one of the document on stdin)");
  verb.takes_many();
  verb.run([name](cli::Context& context) -> Result<int> {
    TRY_ASSIGN(const target::VmTarget at, target::vm_target(context, *name));
    TRY_ASSIGN(context.document()["vm"], target::live_document(at.run, at.vm));
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
      // The last words of a dead VM, and what is only known when asked, belong to `info`.
      for (const char* key : {"console_tail", "stderr", "cmdline", "cmdline_append", "qemu_args",
                              "kernel_cmdline", "files", "quiescent", "open_files", "open_streams"})
        document->erase(key);
      TRY(context.emit({{"v", cli::k_document_version}, {"vm", std::move(*document)}}));
    }
    return 0;
  });
}

}  // namespace pv::vmcmd
