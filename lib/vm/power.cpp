// SPDX-License-Identifier: MIT
#include "vm/power.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "vm/argv.hpp"
#include "vm/client.hpp"

namespace pv::vm {

// A drive that came with --qemu-arg goes on with what QEMU last gave to the host: that would be
// another instant.
Result<> check_drives(const Object& vm, const Deadline& deadline) {
  TRY_ASSIGN(const json status, call_supervisor(vm, {{"op", "status"}}, deadline, "power-cut"));
  std::vector<std::string> ours;
  for (const json& slot : status["disks"]) ours.push_back(node_name(slot.get<size_t>()));
  TRY_ASSIGN(const json drives, call_qmp(vm, "query-block", json(), deadline));
  for (const json& drive : drives) {
    const json* medium = find(drive, "inserted");
    if (!medium) continue;
    const std::string node = get_string(*medium, "node-name");
    if (std::find(ours.begin(), ours.end(), node) != ours.end()) continue;
    const std::string name = get_string(drive, "device");
    return fail(Code::not_mediated, fmt::format("VM '{}' has a drive '{}' that is not served here",
                                                vm.name, name.empty() ? node : name));
  }
  return {};
}

Result<> kill_machine(const Object& vm, const Deadline& deadline) {
  TRY(call_supervisor(vm, {{"op", "power_cut"}}, deadline, "power-cut"));
  return {};
}

}  // namespace pv::vm
