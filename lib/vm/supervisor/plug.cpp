// SPDX-License-Identifier: MIT
// Disks that are put into a running QEMU, in two halves: what it talks to the disk's server with,
// and the device that the guest sees.
#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "vm/supervisor/decoy.hpp"
#include "vm/supervisor/supervisor.hpp"

namespace pv::vm {

Error Supervisor::private_memory(const std::string& disk) const {
  return Error(
      Code::unsupported,
      fmt::format("VM '{}' has memory of its own that no server can see{}: a vhost-user "
                  "disk ('{}') does not work there, one with --transport nbd does",
                  plan_.vm.name,
                  plan_.restore ? ", as it was restored with that of a snapshot" : "", disk));
}

void Supervisor::op_plug(ControlServer::ConnectionId, const json& request, const Reply& reply) {
  const json* state = find(request, "disk");
  if (!state || !state->is_object()) return reply(fail(Code::invalid, "plug: no disk"));
  auto disk = disk_spec(*state, get_string(request, "socket"));
  if (!disk) return reply(fail(disk.error()));
  if (disk->vhost_user && !shares_memory_) return reply(fail(private_memory(disk->id)));
  const auto free = free_slot();
  if (!free)
    return reply(fail(Code::unsupported, fmt::format("VM '{}' has no free slot for a disk (all {} "
                                                     "are taken)",
                                                     plan_.vm.name, plan_.ports)));
  const size_t slot = *free;
  slots_[slot] = {disk->id, disk->vhost_user};
  const uint64_t timeout_ns = timeout_of(request);
  const auto then = [this, disk = *disk, slot, timeout_ns, reply,
                     server = process_from_json(*state)](const Result<json>& result) {
    if (result && disk.vhost_user) return add_vhost_user(disk, server, slot, timeout_ns, reply);
    if (result) return add_device(disk, slot, timeout_ns, reply);
    slots_.erase(slot);
    reply(fail(result.error()));
  };
  if (disk->vhost_user)
    qmp_->execute("chardev-add", chardev_arguments(*disk, slot, plan_.qemu), timeout_ns, then);
  else
    qmp_->execute("blockdev-add", blockdev_arguments(*disk, slot), timeout_ns, then);
}

void Supervisor::add_device(const DiskSpec& disk, size_t slot, uint64_t timeout_ns,
                            const Reply& reply) {
  const json drive = drive_arguments(disk, slot);
  qmp_->execute("device_add", device_arguments(disk, slot), timeout_ns,
                [this, slot, drive, timeout_ns, reply](const Result<json>& result) {
                  if (!result) return not_plugged(slot, result.error(), reply);
                  if (drive.is_null()) return plugged(slot, reply);
                  add_drive(drive, slot, timeout_ns, reply);
                });
}

// With a server that says nothing QEMU would hang, and its monitor with it.
void Supervisor::add_vhost_user(const DiskSpec& disk, const ProcessId& server, size_t slot,
                                uint64_t timeout_ns, const Reply& reply) {
  const auto decoy = std::make_shared<std::unique_ptr<Decoy>>();
  const TimerId timer = loop_->after(timeout_ns / 2, [this, decoy, server, socket = disk.socket] {
    if (auto made = Decoy::make(*loop_, socket)) *decoy = std::move(*made);
    static_cast<void>(terminate(server, 0));
  });
  qmp_->execute(
      "device_add", device_arguments(disk, slot, get_u64(plan_.state, "cpus", 1)),
      timeout_ns + k_qmp_ns,
      [this, decoy, timer, slot, id = disk.id, reply](const Result<json>& result) {
        loop_->cancel(timer);
        if (result) return plugged(slot, reply);
        if (*decoy == nullptr) return not_plugged(slot, result.error(), reply);
        decoy->reset();
        not_plugged(slot,
                    Error(Code::timeout, fmt::format("the server of disk '{}' does not answer QEMU "
                                                     "in time; it was ended",
                                                     id)),
                    reply);
      });
}

void Supervisor::not_plugged(size_t slot, const Error& error, const Reply& reply) {
  remove_backend(slot, [this, slot, reply, error](const Result<json>&) {
    slots_.erase(slot);
    reply(fail(error));
  });
}

// The half that the guest does not see.
void Supervisor::remove_backend(size_t slot, JsonReply done) {
  if (slots_[slot].vhost_user)
    qmp_->execute("chardev-remove", {{"id", disk_chardev(slot)}}, k_qmp_ns, std::move(done));
  else
    qmp_->execute("blockdev-del", {{"node-name", node_name(slot)}}, k_qmp_ns, std::move(done));
}

void Supervisor::plugged(size_t slot, const Reply& reply) {
  events_.add("disk_attached", {{"disk", slots_[slot].id}});
  reply(json({{"slot", slot}}));
}

void Supervisor::add_drive(const json& drive, size_t slot, uint64_t timeout_ns,
                           const Reply& reply) {
  qmp_->execute("device_add", drive, timeout_ns, [this, slot, reply](const Result<json>& result) {
    if (result) return plugged(slot, reply);
    // The slot is free again when the guest has let go of the controller.
    qmp_->execute("device_del", {{"id", device_name(slot)}}, k_qmp_ns, [](const Result<json>&) {});
    reply(fail(result.error()));
  });
}

}  // namespace pv::vm
