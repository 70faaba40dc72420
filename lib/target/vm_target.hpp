// SPDX-License-Identifier: MIT
// From what a person typed, or a document said, to the VM that a verb is about. Used by the
// commands only.
#pragma once

#include <string>

#include "base/run_dir.hpp"
#include "cli/command.hpp"

namespace pv::target {

// Name and scope of a VM, whether or not it exists.
struct VmName {
  RunDir run;
  std::string name;
};
// From the command line or, without one there, from the `vm` of the input document.
Result<VmName> vm_name(cli::Context& context, const std::string& name);

struct VmTarget {
  RunDir run;
  Object vm;
};
// The one that a document names.
Result<VmTarget> vm_in_document(const cli::Context& context, const json& document);
Result<VmTarget> vm_target(cli::Context& context, const std::string& name);

}  // namespace pv::target
