// SPDX-License-Identifier: MIT
#include "vm/restore.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "vm/boot_disks.hpp"
#include "vm/hardware.hpp"
#include "vm/lan/state.hpp"
#include "vm/supervise.hpp"
#include "vm/vm_object.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_restore_slack_ns =
    3 * k_ns_per_s;  // the supervisor's own deadline comes first

tl::unexpected<Error> corrupt(std::string_view what) {
  return fail(Code::snapshot_corrupt, fmt::format("the snapshot's devices: {}", what));
}

Result<size_t> slot_in(const json& value, size_t ports) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() >= ports)
    return corrupt("a slot that the machine does not have");
  return value.get<size_t>();
}

Result<> place_disks(const RunDir& run, const Object& vm, const json& devices, Machine& machine) {
  const json* disks = find(devices, "disks");
  if (!disks || !disks->is_object()) return corrupt("there are no \"disks\"");
  json ids = json::array();
  for (const auto& [id, slot] : disks->items()) {
    TRY_ASSIGN(const size_t at, slot_in(slot, machine.ports));
    machine.disk_slots.push_back(at);
    ids.push_back(id);
  }
  TRY_ASSIGN(machine.disks, cold_disks(run, vm, {{"disks", ids}}));
  return {};
}

// A card whose lan has gone, or which is another VM's now, leads nowhere: the guest sees its cable
// pulled.
Result<> place_nics(const json& devices, const std::vector<NicSpec>& connected, Machine& machine) {
  const json* nics = find(devices, "nics");
  if (!nics || !nics->is_array()) return corrupt("there are no \"nics\"");
  for (const json& item : *nics) {
    auto nic = nic_from_json(item);
    const json* slot = find(item, "slot");
    if (!nic || !slot) return corrupt("a card that is none");
    TRY_ASSIGN(const size_t at, slot_in(*slot, machine.ports));
    const auto same = [&](const NicSpec& one) {
      return one.lan == nic->lan && one.mac == nic->mac && one.address == nic->address;
    };
    const auto found = std::find_if(connected.begin(), connected.end(), same);
    if (found != connected.end())
      *nic = *found;
    else
      nic->socket.clear();
    machine.nics.push_back(std::move(*nic));
    machine.nic_slots.push_back(at);
  }
  return {};
}

Result<> place_data_ports(const json& devices, Machine& machine) {
  const json* ports = find(devices, "data_ports");
  if (!ports || !ports->is_array()) return corrupt("there are no \"data_ports\"");
  for (const json& port : *ports) {
    if (!port.is_number_unsigned() || port.get<uint64_t>() >= k_max_data_ports)
      return corrupt("a data port that there cannot be");
    machine.data_ports.push_back(port.get<size_t>());
  }
  return {};
}

Result<Machine> plan_machine(const RunDir& run, const Object& vm, const json& saved,
                             const json& devices, const RestorePlan& plan) {
  Machine machine;
  machine.name = vm.name;
  machine.dir = vm.dir;
  machine.restored = true;
  if (!plan.shared) machine.ram_file = plan.ram;
  machine.ports = get_u64(devices, "ports");
  if (machine.ports > k_max_ports) return corrupt("more ports than a machine has");
  TRY_ASSIGN(machine.qemu, find_qemu(run));
  TRY(place_disks(run, vm, devices, machine));
  const json* hardware = find(saved, "hardware");
  TRY(hardware_from_json(hardware ? *hardware : json::object(), machine));
  TRY_ASSIGN(const json now, vm.load());
  TRY_ASSIGN(const std::vector<NicSpec> connected, lan::nics_of_vm(vm, now));
  TRY(place_nics(devices, connected, machine));
  TRY(place_data_ports(devices, machine));
  return machine;
}

// What the VM was, as what it is now: lans are its own or none, the rest is as it was.
Result<json> new_state(const Object& vm, const json& saved, const json& devices) {
  TRY_ASSIGN(const json before, vm.load());
  json state = saved;
  forget_boot(state, "created");
  state["name"] = vm.name;
  state["scope"] = vm.scope;
  state.erase("nics");
  if (const json* nics = find(before, "nics")) state["nics"] = *nics;
  json disks = json::array();
  for (const auto& [id, slot] : devices["disks"].items()) disks.push_back(id);
  state["disks"] = disks;
  return state;
}

}  // namespace

Result<Taking> Taking::begin(const Object& vm, const Deadline& deadline) {
  auto line = LineClient::connect(vm.path(k_control_socket), deadline);
  if (!line) return fail(guest_died_error(vm, "the snapshot"));
  return Taking(vm, std::move(*line), deadline);
}

Result<> Taking::send(json request) {
  request["timeout_ms"] = deadline_.left_ns() / k_ns_per_ms;
  return line_.send_line(request, deadline_);
}

Result<json> Taking::hear() {
  auto reply = line_.read_json(Deadline::in_ns(deadline_.left_ns() + k_restore_slack_ns));
  if (!reply && reply.error().code == Code::server_dead)
    return fail(guest_died_error(vm_, "the snapshot"));
  if (!reply) return reply;
  if (const json* error = find(*reply, "error")) return fail(error_from_json(*error));
  return reply;
}

Result<json> Taking::call(json request) {
  TRY(send(std::move(request)));
  return hear();
}

Result<> Taking::freeze() {
  TRY(call({{"op", "snap.freeze"}}));
  return {};
}

Result<> Taking::thaw() {
  TRY(call({{"op", "snap.thaw"}}));
  return {};
}

Result<json> Taking::check(const std::string& dir) {
  TRY_ASSIGN(const json reply, call({{"op", "snap.check"}, {"dir", dir}}));
  return reply.value("flushes", json::object());
}

Result<json> Taking::stop() {
  TRY_ASSIGN(const json reply, call({{"op", "snap.stop"}}));
  return reply.value("flushes", json::object());
}

Result<json> Taking::save() {
  return call({{"op", "snap.save"}});
}

Result<> Taking::start_ram() {
  return send({{"op", "snap.ram"}});
}

Result<> Taking::finish_ram() {
  TRY(hear());
  return {};
}

Result<json> Taking::end() {
  return call({{"op", "snap.end"}});
}

Result<> restore_machine(const RunDir& run, const Object& vm, const LockFile& lock,
                         const json& saved, const json& devices, const RestorePlan& restore,
                         const RestoreOptions& options) {
  BootPlan plan;
  plan.vm = vm;
  plan.started_ns = system_clock().now_ns();
  plan.timeout_ns = options.timeout_ns;
  TRY_ASSIGN(const Machine machine, plan_machine(run, vm, saved, devices, restore));
  plan.restore = restore;
  plan.restore->paused = options.paused;
  plan.restore->agent = get_bool(devices, "agent");
  plan.restore->data_ports = machine.data_ports;
  plan.restore->runner = get_string(devices, "runner");
  plan.no_agent = !plan.restore->agent;
  plan.restore->host_clock = options.host_clock;
  plan.work.reseed = options.reseed;
  plan.work.host_name = vm.name;
  plan.argv = build_argv(machine);
  TRY_ASSIGN(plan.state, new_state(vm, saved, devices));
  plan.state["hardware"] = hardware_to_json(machine);
  plan.state["argv"] = plan.argv;
  plan.state["ports"] = machine.ports;
  plan.state["restored_from"] = restore.dir;
  plan.state["ram"] = restore.mapped ? "mapped" : "copied";
  place_devices(machine, plan);
  return supervise(std::move(plan), lock);
}

}  // namespace pv::vm
