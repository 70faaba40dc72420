// SPDX-License-Identifier: MIT
#include "vm/supervise.hpp"

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/process.hpp"
#include "base/text.hpp"
#include "vm/supervisor/supervisor.hpp"
#include "vm/vm_object.hpp"

namespace pv::vm {
namespace {

// The supervisor reports a boot that takes too long itself; this is for one that is stuck.
constexpr uint64_t k_report_slack_ns = 15 * k_ns_per_s;
constexpr uint64_t k_supervisor_grace_ns = 3 * k_ns_per_s;

}  // namespace

void place_devices(const Machine& machine, BootPlan& plan) {
  plan.qemu = machine.qemu;
  plan.ports = port_count(machine);
  plan.nics = machine.nics;
  for (size_t i = 0; i < machine.disks.size(); ++i)
    plan.disks[disk_slot(machine, i)] = {machine.disks[i].id, machine.disks[i].vhost_user};
  for (size_t i = 0; i < machine.nics.size(); ++i) plan.nic_slots.push_back(nic_slot(machine, i));
}

Result<> supervise(BootPlan plan, const LockFile& lock) {
  const Object vm = plan.vm;
  const uint64_t timeout_ns = plan.timeout_ns;
  const Deadline deadline = Deadline::in_ns(timeout_ns + k_report_slack_ns);
  TRY_ASSIGN(const Daemon daemon, start_daemon(
                                      vm.path(k_supervisor_log),
                                      [plan = std::move(plan)](Fd ready) mutable {
                                        return Supervisor::run(std::move(plan), std::move(ready),
                                                               Fd(k_kept_fd));
                                      },
                                      lock.fd()));
  auto message = read_ready(daemon, deadline);
  auto report = message ? parse_json(*message) : Result<json>(fail(message.error()));
  if (report && !find(*report, "error")) return {};
  // QEMU dies with its supervisor, so this leaves nothing.
  static_cast<void>(terminate(daemon.id, k_supervisor_grace_ns));
  if (report) return fail(error_from_json((*report)["error"]));
  if (!message) return fail(message.error());
  std::string words = tail_of_file(vm.path(k_supervisor_log), k_console_tail_bytes);
  return fail(Code::guest_died, fmt::format("VM '{}': its supervisor ended before the guest had "
                                            "booted{}{}",
                                            vm.name, words.empty() ? "" : ": ", words));
}

}  // namespace pv::vm
