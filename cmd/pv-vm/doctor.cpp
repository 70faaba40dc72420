// SPDX-License-Identifier: MIT
#include "verbs.hpp"
#include "vm/machine.hpp"

namespace pv::vmcmd {

void build_doctor(cli::Verb& verb) {
  verb.run([](cli::Context& context) -> Result<int> {
    TRY_ASSIGN(const RunDir run, context.run_dir());
    context.document()["doctor"] = vm::doctor_document(run);
    const bool good = context.document()["doctor"]["can_run_vms"].get<bool>();
    TRY(context.emit());
    return good ? 0 : exit_class(Code::unavailable);
  });
}

}  // namespace pv::vmcmd
