// SPDX-License-Identifier: MIT
#include "target/vm_target.hpp"

#include "base/json.hpp"
#include "base/text.hpp"
#include "vm/vm_object.hpp"

namespace pv::target {
namespace {

Result<VmName> name_in_document(const cli::Context& context, const json& document) {
  const json* vm = find(document, "vm");
  const std::string name = vm && vm->is_object() ? get_string(*vm, "name") : "";
  if (name.empty())
    return fail(Code::bad_document, "the input document names no VM (key \"vm\", \"name\")");
  TRY_ASSIGN(RunDir run, context.run_dir(get_string(*vm, "scope")));
  return VmName{std::move(run), name};
}

}  // namespace

Result<VmName> vm_name(cli::Context& context, const std::string& name) {
  if (!name.empty()) {
    TRY_ASSIGN(RunDir run, context.run_dir());
    return VmName{std::move(run), name};
  }
  TRY_ASSIGN(const json* document, context.input());
  return name_in_document(context, *document);
}

Result<VmTarget> vm_in_document(const cli::Context& context, const json& document) {
  TRY_ASSIGN(VmName found, name_in_document(context, document));
  TRY_ASSIGN(Object vm, vm::find_vm(found.run, found.name));
  return VmTarget{std::move(found.run), std::move(vm)};
}

Result<VmTarget> vm_target(cli::Context& context, const std::string& name) {
  TRY_ASSIGN(VmName found, vm_name(context, name));
  TRY_ASSIGN(Object vm, vm::find_vm(found.run, found.name));
  return VmTarget{std::move(found.run), std::move(vm)};
}

}  // namespace pv::target
