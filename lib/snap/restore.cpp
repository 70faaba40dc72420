// SPDX-License-Identifier: MIT
#include "snap/restore.hpp"

#include <cerrno>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/defer.hpp"
#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "base/workers.hpp"
#include "serve/disk_object.hpp"
#include "serve/snapshot.hpp"
#include "snap/boot_file.hpp"
#include "vm/hardware.hpp"
#include "vm/machine.hpp"
#include "vm/vm_object.hpp"

namespace pv::snap {
namespace {

constexpr const char* k_own_ram = "ram";  // a VM's copy, where the snapshot's cannot be mapped

Result<> check_machine(const RunDir& run, const Bundle& bundle) {
  const json& saved = bundle.manifest["saved"];
  const json hardware = saved.value("hardware", json::object());
  const auto differs = [&](const char* what, const std::string& then, const std::string& now) {
    return fail(Error(Code::incompatible,
                      fmt::format("snapshot {} is of another {}: {}, this machine has {}",
                                  bundle.dir, what, then, now))
                    .with("differs", json::array({what})));
  };
  TRY_ASSIGN(const vm::Qemu qemu, vm::find_qemu(run));
  const std::string version = get_string(hardware, "qemu_version");
  if (version != qemu.version) return differs("qemu_version", version, qemu.version);
  const std::string accel = get_string(hardware, "accel");
  if (accel == "kvm" && !vm::choose_accel("kvm")) return differs("accel", "kvm", "none");
  if (get_string(hardware, "host_cpu") != vm::host_cpu(accel))
    return differs("host_cpu", "another processor", "its own");
  TRY(check_boot_files(bundle.manifest.value("boot_files", json::array())));
  for (const auto& [id, disk] : bundle.manifest["disks"].items()) {
    TRY(check_name("disk", id));
    TRY(serve::check_saved_disk(disk, bundle.disk_dir(id)));
  }
  return {};
}

// The server of such a disk maps the VM's memory too, and has to see its changes.
bool has_vhost_user(const Bundle& bundle) {
  for (const auto& [id, disk] : bundle.manifest["disks"].items())
    if (const json* spec = find(disk, "spec");
        spec && get_string(*spec, "transport") == serve::transport_name(true))
      return true;
  return false;
}

// QEMU opens what it maps for writing, even privately.
bool can_be_mapped(const std::string& ram) {
  const Fd fd(open(ram.c_str(), O_RDWR | O_CLOEXEC));
  return static_cast<bool>(fd);
}

Result<> copy_ram(const std::string& from, const std::string& to) {
  unlink(to.c_str());
  const Fd source(open(from.c_str(), O_RDONLY | O_CLOEXEC));
  const Fd copy(open(to.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!source || !copy) return fail_errno("cannot copy " + from, errno);
  return copy_sparse(source.get(), copy.get());
}

class Restore {
 public:
  Restore(const RunDir& run, const Bundle& bundle, const RestoreFlags& flags)
      : run_(run),
        bundle_(bundle),
        flags_(flags),
        deadline_(Deadline::in_ns(flags.vm.timeout_ns)) {}

  Result<json> as(const std::string& name) {
    TRY(check_name("vm", name));
    if (flags_.vm.paused && get_bool(bundle_.manifest, "frozen"))
      return fail(Code::unsupported,
                  fmt::format("snapshot {} was taken of a frozen guest, which has to run to be "
                              "thawed: restore it without --paused, and pause it then",
                              bundle_.dir));
    if (flags_.in_place) TRY(check_places());
    const auto vm = run_.find("vm", "", name);
    if (vm) return into(*vm);
    TRY_ASSIGN(const Object made, make_vm(run_, name));
    return as_new(made);
  }

  // One that is there for this only.
  Result<json> as_new(const Object& vm) {
    auto restored = into(vm);
    if (!restored) run_.remove(vm);
    return restored;
  }

 private:
  // Before anything is closed.
  Result<> check_places() const {
    for (const auto& [id, disk] : bundle_.manifest["disks"].items()) {
      const auto place = serve::check_in_place(disk);
      if (place) continue;
      Error error = place.error();
      error.message = fmt::format("disk '{}': {}", id, error.message);
      return fail(std::move(error));
    }
    return {};
  }

  Result<json> into(const Object& vm) {
    TRY_ASSIGN(const LockFile lock, vm::lock_vm(vm, deadline_));
    TRY_ASSIGN(json state, vm.load());
    const bool again = vm::restore_interrupted(state);
    if (!again) TRY(vm::require_state(vm, state, "restore", {"created", "shutdown"}));
    TRY_ASSIGN(const RunDir home, RunDir::open(vm.scope));
    end_disks(vm);
    vm::forget_boot(state, again ? "created" : vm::actual_state(vm, state));
    state["disks"] = json::array();
    Deferred undo([&, state] {
      end_disks(vm);
      static_cast<void>(vm.save(state));
    });
    vm::mark_restoring(state);
    TRY(vm.save(state));
    TRY(serve_disks(home, vm));
    vm::RestorePlan plan;
    plan.dir = bundle_.dir;
    plan.frozen = get_bool(bundle_.manifest, "frozen");
    plan.state = bundle_.path(k_state_file);
    plan.ram = bundle_.path(k_ram_file);
    plan.shared = has_vhost_user(bundle_);
    plan.mapped = !plan.shared && can_be_mapped(plan.ram);
    if (!plan.mapped && !plan.shared) {
      TRY(copy_ram(plan.ram, vm.path(k_own_ram)));
      plan.ram = vm.path(k_own_ram);
    }
    json saved = bundle_.manifest["saved"];
    json& hardware = saved["hardware"];
    if (get_string(hardware, "initrd") == k_initrd_file)
      hardware["initrd"] = bundle_.path(k_initrd_file);
    TRY(vm::restore_machine(home, vm, lock, saved, bundle_.manifest["devices"], plan, flags_.vm));
    undo.cancel();
    return vm::vm_document(vm);
  }

  // All at the same time.
  Result<> serve_disks(const RunDir& home, const Object& vm) {
    std::vector<serve::StartingServer> starting;
    for (const auto& [id, disk] : bundle_.manifest["disks"].items()) {
      TRY_ASSIGN(const Object object, home.create("disk", vm.name, id));
      TRY_ASSIGN(serve::StartingServer server,
                 serve::begin_restore(object, disk, bundle_.disk_dir(id), {flags_.in_place}));
      starting.push_back(std::move(server));
    }
    Result<> first;
    for (serve::StartingServer& server : starting)
      if (auto up = server.wait(deadline_); !up && first) first = fail(up.error());
    return first;
  }

  void end_disks(const Object& vm) {
    for (const Object& disk : serve::disks_of_vm(run_, vm))
      static_cast<void>(serve::close_disk(run_, disk));
  }

  const RunDir& run_;
  const Bundle& bundle_;
  const RestoreFlags& flags_;
  Deadline deadline_;
};

}  // namespace

Result<> check(const RunDir& run, const Bundle& bundle, bool thorough) {
  TRY(check_machine(run, bundle));
  return verify(bundle, thorough);
}

Result<Object> make_vm(const RunDir& run, const std::string& name) {
  json state = {{"name", name},
                {"scope", run.scope()},
                {"state", "created"},
                {"config", json::object()},
                {"disks", json::array()}};
  vm::mark_restoring(state);
  return run.create("vm", "", name, &state);
}

// As the supervisors of its VMs hold it. Until they do, nobody deletes it under us.
Result<Fd> hold(const Bundle& bundle) {
  Fd dir(open(bundle.dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir) return fail(Code::no_such_snapshot, "no snapshot " + bundle.dir);
  if (flock(dir.get(), LOCK_SH | LOCK_NB) < 0)
    return fail(Code::in_use, fmt::format("snapshot {} is being deleted", bundle.dir));
  return dir;
}

Result<json> restore(const RunDir& run, const Bundle& bundle, const std::string& name,
                     const RestoreFlags& flags) {
  TRY_ASSIGN(const Fd held, hold(bundle));
  TRY(check(run, bundle, false));
  return Restore(run, bundle, flags).as(name);
}

void clone(const RunDir& run, const Bundle& bundle, const std::vector<Object>& vms,
           const RestoreFlags& flags, size_t parallel,
           const std::function<void(size_t index, Result<json>)>& done) {
  Workers workers;
  size_t next = 0;
  while (next < vms.size() || workers.count() > 0) {
    while (workers.count() < parallel && next < vms.size()) {
      const size_t index = next++;
      const auto started =
          workers.start(index, [&] { return Restore(run, bundle, flags).as_new(vms[index]); });
      if (!started) done(index, fail(started.error()));
    }
    if (workers.count() > 0) workers.wait(done);
  }
}

}  // namespace pv::snap
