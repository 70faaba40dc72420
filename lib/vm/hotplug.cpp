// SPDX-License-Identifier: MIT
#include "vm/hotplug.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "vm/argv.hpp"
#include "vm/client.hpp"
#include "vm/profile/config.hpp"
#include "vm/profile/profile.hpp"
#include "vm/supervisor/guest_run.hpp"
#include "vm/vm_object.hpp"

namespace pv::vm {
namespace {

// Looks for the serial inside the guest, so that waiting costs one guest-exec and not one per look.
// Prints the device's name. $1 serial, $2 looks, 10 ms apart.
constexpr const char* k_find_serial =
    "n=0; while [ $n -lt $2 ]; do for f in /sys/block/*/serial; do s=; read -r s <$f; "
    "if [ \"$s\" = \"$1\" ]; then d=${f%/serial}; d=/dev/${d##*/}; "
    "[ -b $d ] && echo $d && exit 0; fi; done 2>/dev/null; "
    "n=$((n+1)); usleep 10000 2>/dev/null || sleep 0.01; done; exit 1";
// The same for a CD drive, which Linux shows no serial of: $1 is the PCI address of its port. Only
// here a guest may have to load drivers.
constexpr const char* k_find_cdrom =
    "modprobe -aq virtio_scsi sr_mod 2>/dev/null; n=0; while [ $n -lt $2 ]; do "
    "for d in /sys/devices/pci*/$1/*/virtio*/host*/target*/*/block/*; do "
    "d=/dev/${d##*/}; [ -b $d ] && echo $d && exit 0; done; "
    "n=$((n+1)); usleep 10000 2>/dev/null || sleep 0.01; done; exit 1";
// The same for a size: $1 serial, $2 sectors of 512 bytes, $3 looks.
constexpr const char* k_find_size =
    "n=0; while [ $n -lt $3 ]; do for f in /sys/block/*/serial; do s=; read -r s <$f; "
    "if [ \"$s\" = \"$1\" ]; then read -r z <${f%/serial}/size; [ $z = $2 ] && exit 0; fi; "
    "done 2>/dev/null; n=$((n+1)); usleep 10000 2>/dev/null || sleep 0.01; done; exit 1";
constexpr uint64_t k_take_back_ns = 5 * k_ns_per_s;

Result<> require_running(const Object& vm, const char* verb) {
  TRY_ASSIGN(const json state, vm.load());
  return require_state(vm, state, verb, {"booted"});
}

}  // namespace

Result<json> plug_disk(const Object& vm, const json& disk_state, const std::string& nbd_socket,
                       const Deadline& deadline) {
  TRY(require_running(vm, "attach"));
  TRY_ASSIGN(const DiskSpec disk, disk_spec(disk_state, nbd_socket));
  TRY_ASSIGN(const json plugged,
             call_supervisor(vm, {{"op", "plug"}, {"disk", disk_state}, {"socket", nbd_socket}},
                             deadline, "attach"));
  json result = {{"guest_path", nullptr}, {"slot", plugged["slot"]}};
  GuestCommand look;
  const uint64_t looks = std::max<uint64_t>(deadline.left_ns() / (10 * k_ns_per_ms), 1);
  look.argv = {"/bin/sh", "-c", k_find_serial, "sh", disk.serial, std::to_string(looks)};
  if (disk.cdrom) {
    look.argv[2] = k_find_cdrom;
    look.argv[4] = port_address(get_u64(plugged, "slot"));
  }
  // A little is kept for the caller: a guest without an agent is no failure.
  look.timeout_ns = std::max(deadline.left_ns() / 8 * 7, k_ns_per_ms);
  const auto found = run_in_guest(vm, look);
  if (found && get_u64(*found, "exit_status", 1) == 0) {
    std::string path = get_string(*found, "stdout");
    while (!path.empty() && path.back() == '\n') path.pop_back();
    result["guest_path"] = path;
    return result;
  }
  if (!found && found.error().code == Code::no_agent) return result;
  const bool late = found || found.error().code == Code::timeout;
  static_cast<void>(unplug_disk(vm, disk.id, Deadline::in_ns(k_take_back_ns)));
  if (late)
    return fail(Code::timeout, fmt::format("VM '{}': the guest has not found disk '{}' in time",
                                           vm.name, disk.id));
  return fail(found.error());
}

Result<bool> shares_memory(const Object& vm, const json& state, const Deadline& deadline) {
  if (is_running(actual_state(vm, state))) {
    TRY_ASSIGN(const json now, call_supervisor(vm, {{"op", "status"}}, deadline, "attach"));
    return get_bool(now, "shares_memory");
  }
  const json* saved = find(state, "config");
  const VmConfig config = config_from_json(saved ? *saved : json::object());
  std::vector<std::string> args = config.qemu_args;
  if (const auto profile = find_profile(config.profile, config.config_file))
    args.insert(args.end(), profile->qemu_args.begin(), profile->qemu_args.end());
  // Somebody who brings memory of their own knows what it is; we only do when it is there.
  return std::none_of(args.begin(), args.end(), [](const std::string& arg) {
    return arg.find("memory-backend") != std::string::npos || arg == "-mem-path";
  });
}

Result<json> resize_disk(const Object& vm, const json& disk_state, uint64_t size,
                         const Deadline& deadline) {
  TRY_ASSIGN(const DiskSpec disk, disk_spec(disk_state, ""));
  TRY(call_supervisor(vm, {{"op", "resize"}, {"id", disk.id}, {"size_bytes", size}}, deadline,
                      "resize"));
  json result = {{"guest_bytes", nullptr}};
  TRY_ASSIGN(const json state, vm.load());
  if (actual_state(vm, state) != "booted") return result;
  GuestCommand look;
  const uint64_t looks = std::max<uint64_t>(deadline.left_ns() / (10 * k_ns_per_ms), 1);
  look.argv = {"/bin/sh",
               "-c",
               k_find_size,
               "sh",
               disk.serial,
               std::to_string(size / 512),
               std::to_string(looks)};
  look.timeout_ns = std::max(deadline.left_ns(), k_ns_per_ms);
  const auto found = run_in_guest(vm, look);
  if (!found && found.error().code == Code::no_agent) return result;
  if (!found && found.error().code != Code::timeout) return fail(found.error());
  if (!found || get_u64(*found, "exit_status", 1) != 0)
    return fail(Code::timeout,
                fmt::format("VM '{}': the guest has not seen the new size of disk '{}' in time",
                            vm.name, disk.id));
  result["guest_bytes"] = size;
  return result;
}

Result<> eject_disk(const Object& vm, const std::string& disk_id, bool force,
                    const Deadline& deadline) {
  TRY(call_supervisor(vm, {{"op", "eject"}, {"id", disk_id}, {"force", force}}, deadline, "eject"));
  return {};
}

Result<json> unplug_disk(const Object& vm, const std::string& disk_id, const Deadline& deadline) {
  TRY(require_running(vm, "detach"));
  TRY_ASSIGN(const json reply,
             call_supervisor(vm, {{"op", "unplug"}, {"id", disk_id}}, deadline, "detach"));
  json result = {{"guest_released", get_bool(reply, "released")}};
  if (!get_bool(reply, "released")) result["why"] = get_string(reply, "why");
  return result;
}

}  // namespace pv::vm
