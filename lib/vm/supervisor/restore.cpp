// SPDX-License-Identifier: MIT
// How a VM begins where a snapshot of it was taken, and the supervisor's part in taking one.
#include <cerrno>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "vm/device_state.hpp"
#include "vm/supervisor/supervisor.hpp"
#include "vm/vm_object.hpp"

namespace pv::vm {
namespace {

Result<Fd> open_to_read(const std::string& path) {
  Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return fail_errno("cannot open " + path, errno);
  return fd;
}

}  // namespace

// The files stay open: whoever deletes the snapshot while we run takes nothing away from us. The
// lock tells those who look first.
Result<> Supervisor::open_snapshot() {
  const RestorePlan& restore = *plan_.restore;
  TRY_ASSIGN(snapshot_lock_, open_to_read(restore.dir));
  if (flock(snapshot_lock_.get(), LOCK_SH | LOCK_NB) < 0)
    return fail(Code::in_use, fmt::format("snapshot {} is being deleted", restore.dir));
  TRY_ASSIGN(snapshot_state_, open_to_read(restore.state));
  TRY_ASSIGN(const std::string stream, read_file(restore.state, k_max_device_state));
  auto front = end_of_ram(stream);
  if (!front) return fail(Code::snapshot_corrupt, restore.state + ": " + front.error().message);
  TRY_ASSIGN(Fd front_file, open_to_read(restore.state));
  snapshots_.set_front(std::move(front_file), *front);
  ports_.start(restore.data_ports);
  return {};
}

// The file that is the guest's memory: a snapshot's, which QEMU maps privately, or one without a
// name, so that nothing of it is left when we and QEMU are gone.
Result<Fd> Supervisor::make_memory() const {
  const bool restored = plan_.restore.has_value();
  if (restored && !plan_.restore->shared) return open_to_read(plan_.restore->ram);
  Fd memory(memfd_create("provium-ram", MFD_CLOEXEC));
  if (!memory) return fail_errno("cannot make memory for the guest", errno);
  if (restored) {
    TRY_ASSIGN(const Fd saved, open_to_read(plan_.restore->ram));
    TRY(copy_sparse(saved.get(), memory.get()));
    return memory;
  }
  const uint64_t bytes = get_u64(plan_.state, "memory_bytes");
  if (ftruncate(memory.get(), static_cast<off_t>(bytes)) < 0)
    return fail_errno("cannot make memory for the guest", errno);
  return memory;
}

// What runs commands answers quicker than the agent does, and says as much.
bool Supervisor::trusts_agent() const {
  return plan_.restore && plan_.restore->agent && !plan_.restore->runner.empty();
}

void Supervisor::load_snapshot() {
  qmp_->execute("migrate-set-capabilities", state_capabilities(), k_qmp_ns,
                [](const Result<json>&) {});
  const char* uri = plan_.qemu.loads_files ? "file:/proc/self/fd/{}" : "fd:{}";
  qmp_->execute("migrate-incoming", {{"uri", fmt::format(fmt::runtime(uri), k_state_fd)}}, k_qmp_ns,
                [this](const Result<json>& result) {
                  if (!result) boot_failed(result.error());
                });
}

void Supervisor::migration_event(const json& data) {
  if (phase_ == Phase::running) return snapshots_.on_event(data);
  if (phase_ != Phase::booting || !plan_.restore) return;
  if (get_string(data, "status") == "completed") snapshot_loaded();
}

void Supervisor::snapshot_loaded() {
  snapshot_state_.reset();
  if (plan_.restore->paused) {
    mark_paused(true);
    return booted();
  }
  nics_.cut_loose();
  runner_.resume(plan_.restore->runner);
  plan_.work.since_ns = system_clock().now_ns();
  if (plan_.restore->host_clock) plan_.work.initial_time_ns = system_clock().wall_ns();
  qmp_->execute("cont", nullptr, k_qmp_ns, [this](const Result<json>& result) {
    if (!result) return boot_failed(result.error());
    if (!plan_.restore->agent) booted();
  });
  if (trusts_agent()) runner_.ping([this] { on_agent_ready(); });
}

void Supervisor::op_snap(ControlServer::ConnectionId id, const json& request, const Reply& reply) {
  const std::string op = get_string(request, "op");
  if (op == "snap.freeze") return freezer_.freeze(id, timeout_of(request), reply);
  if (op == "snap.thaw") return freezer_.thaw(timeout_of(request), reply);
  json full = request;
  full["memory_bytes"] = get_u64(plan_.state, "memory_bytes");
  snapshots_.request(id, full, reply);
}

// Code::in_use is what passes by itself.
Result<> Supervisor::snapshot_obstacle() const {
  const json streams = holders_.list();
  if (!streams.empty()) {
    std::string who;
    for (const json& one : streams) {
      const uint64_t since = std::strtoull(get_string(one, "since_ns").c_str(), nullptr, 10);
      const uint64_t now = system_clock().wall_ns();
      who += fmt::format("{}{} (pid {}{}{}, for {})", who.empty() ? "" : "; ",
                         get_string(one, "command"), get_u64(one, "pid"),
                         find(one, "caller") ? ", " : "", get_string(one, "caller"),
                         format_duration((now - std::min(now, since)) / k_ns_per_ms * k_ns_per_ms));
    }
    return fail(Error(Code::streams_open,
                      fmt::format("VM '{}' has open streams, which a snapshot cannot hold: {}",
                                  plan_.vm.name, who))
                    .with("streams", streams));
  }
  const bool busy = runs_.count() != 0 || !agent_.is_idle() || !unplugs_.empty() ||
                    ports_.changing() || nics_.busy();
  if (busy) return fail(Code::in_use, fmt::format("VM '{}' is busy", plan_.vm.name));
  return {};
}

json Supervisor::plugged_devices() const {
  json disks = json::object();
  for (const auto& [slot, disk] : slots_) disks[disk.id] = slot;
  return {{"ports", plan_.ports},      {"disks", disks},
          {"nics", nics_.list()},      {"data_ports", ports_.plugged()},
          {"runner", runner_.nonce()}, {"agent", agent_.is_ready()}};
}

}  // namespace pv::vm
