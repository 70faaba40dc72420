// SPDX-License-Identifier: MIT
#include "base/text.hpp"
#include "verbs.hpp"
#include "vm/machine.hpp"

namespace pv::vmcmd {
namespace {

// A line for each check, and what to do about those that failed.
Result<> emit_table(cli::Context& context, const json& doctor) {
  for (const json& check : doctor["checks"]) TRY(context.emit({{"doctor", check}}));
  std::string advice = get_string(doctor, "install");
  if (!get_bool(doctor, "guest_built"))
    advice += (advice.empty() ? "" : " && ") + std::string("pv-vm guest build");
  if (!advice.empty())
    TRY(context.emit({{"doctor", {{"check", "to do"}, {"status", ""}, {"detail", advice}}}}));
  return {};
}

}  // namespace

void build_doctor(cli::Verb& verb) {
  verb.run([](cli::Context& context) -> Result<int> {
    TRY_ASSIGN(const RunDir run, context.run_dir());
    const json doctor = vm::doctor_document(run);
    context.document()["doctor"] = doctor;
    if (context.text_output() && !context.selects_field())
      TRY(emit_table(context, doctor));
    else
      TRY(context.emit());
    return get_bool(doctor, "can_run_vms") ? 0 : exit_class(Code::unavailable);
  });
}

}  // namespace pv::vmcmd
