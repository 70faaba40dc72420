// SPDX-License-Identifier: MIT
#include <CLI/CLI.hpp>

#include "verbs.hpp"
#include "vm/boot.hpp"

namespace pv::vmcmd {

void build_create(cli::Verb& verb) {
  struct Options {
    std::string name;
    VmFlags flags;
  };
  auto options = std::make_shared<Options>();
  verb.positional("name", options->name, "Name of the new VM")->required();
  add_vm_flags(verb, options->flags);
  verb.run([options](cli::Context& context) -> Result<int> {
    TRY_ASSIGN(const RunDir run, context.run_dir());
    TRY_ASSIGN(context.document()["vm"],
               vm::create_vm(run, options->name, options_of(options->flags)));
    TRY(context.emit());
    return 0;
  });
}

}  // namespace pv::vmcmd
