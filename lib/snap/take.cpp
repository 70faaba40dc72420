// SPDX-License-Identifier: MIT
#include "snap/take.hpp"

#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/defer.hpp"
#include "base/file.hpp"
#include "base/json.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "base/time_text.hpp"
#include "base/version.hpp"
#include "serve/client.hpp"
#include "serve/disk_object.hpp"
#include "snap/boot_file.hpp"
#include "snap/disks.hpp"
#include "snap/store.hpp"
#include "vm/client.hpp"
#include "vm/life.hpp"
#include "vm/restore.hpp"
#include "vm/vm_object.hpp"

namespace pv::snap {
namespace {

// A disk that QEMU opens by itself would be in no snapshot.
Result<> all_mediated(const Object& vm, const Deadline& deadline) {
  TRY_ASSIGN(const json blocks, vm::call_qmp(vm, "query-block", nullptr, deadline));
  for (const json& block : blocks) {
    const std::string device = get_string(block, "qdev");
    const bool ours = device.rfind("/machine/peripheral/vd", 0) == 0 || device.rfind("cd", 0) == 0;
    if (ours || !find(block, "inserted")) continue;
    const std::string name = device.empty() ? get_string(block, "device") : device;
    return fail(Code::not_mediated,
                fmt::format("VM '{}' has a disk of QEMU's own ({}), which a snapshot cannot hold; "
                            "attach it with pv-disk",
                            vm.name, name));
  }
  return {};
}

Result<std::string> make_temporary(const std::string& dir) {
  struct stat st {};
  if (lstat(dir.c_str(), &st) == 0)
    return fail(Code::duplicate_name, fmt::format("{} exists already", dir));
  remove_leftovers(dir);
  const std::string temporary =
      fmt::format("{}{}{}-{:08x}", dir, k_temporary_suffix, getpid(), fresh_seed() & 0xffffffff);
  if (mkdir(temporary.c_str(), 0700) < 0) return fail_errno("cannot create " + dir, errno);
  return temporary;
}

// The VM's record without what is of this boot only, its initial RAM disk beside it where that goes
// with the VM.
Result<json> saved_record(const Object& vm, json state, const std::string& dir) {
  const std::string parent = get_string(state, "restored_from");
  vm::forget_boot(state, "booted");
  state.erase("argv");
  json& hardware = state["hardware"];
  const std::string initrd = get_string(hardware, "initrd");
  const auto is_below = [&](const std::string& top) {
    return !top.empty() && initrd.rfind(top + "/", 0) == 0;
  };
  if (!is_below(vm.dir) && !is_below(parent)) return state;
  const Fd from(open(initrd.c_str(), O_RDONLY | O_CLOEXEC));
  const std::string copy = dir + "/" + k_initrd_file;
  const Fd to(open(copy.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!from || !to) return fail_errno("cannot copy " + initrd, errno);
  TRY(copy_sparse(from.get(), to.get()));
  hardware["initrd"] = k_initrd_file;
  return state;
}

class Take {
 public:
  Take(const RunDir& run, const Object& vm, const TakeOptions& options, const Deadline& deadline)
      : run_(run), vm_(vm), options_(options), deadline_(deadline) {}

  Result<Bundle> into(const std::string& dir) {
    TRY_ASSIGN(state_, vm_.load());
    TRY(vm::require_state(vm_, state_, "take", {"booted", "paused"}));
    if (options_.freeze) TRY(vm::require_state(vm_, state_, "take --freeze", {"booted"}));
    TRY(all_mediated(vm_, deadline_));
    TRY_ASSIGN(bundle_.dir, make_temporary(dir));
    const Fd mine(open(bundle_.dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    flock(mine.get(), LOCK_EX | LOCK_NB);
    Deferred clean([this] { remove_tree(bundle_.dir); });
    TRY(stand_still());
    TRY(describe());
    TRY(seal(bundle_));
    if (renameat2(AT_FDCWD, bundle_.dir.c_str(), AT_FDCWD, dir.c_str(), RENAME_NOREPLACE) < 0)
      return fail_errno("cannot create " + dir, errno);
    clean.cancel();
    bundle_.dir = dir;
    const std::string parent = dir.substr(0, dir.rfind('/') + 1);
    const Fd fd(open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd || fsync(fd.get()) < 0) return fail_errno("cannot sync " + parent, errno);
    // Only now: had anything failed, the VM would go on.
    if (options_.stop) TRY(vm::end_processes(vm_, state_, "a snapshot was taken of it"));
    return std::move(bundle_);
  }

 private:
  // From here to its end the guest waits; with --stop it waits for its own.
  Result<> stand_still() {
    TRY_ASSIGN(taking_, vm::Taking::begin(vm_, deadline_));
    vm::Taking& taking = *taking_;
    if (options_.freeze) TRY(taking.freeze());
    TRY_ASSIGN(disks_, SavedDisks::prepare(run_, vm_, bundle_.dir, deadline_));
    SavedDisks& disks = *disks_;
    TRY_ASSIGN(const json before, taking.check(bundle_.dir));
    TRY(disks.count_flushes());
    const uint64_t since_ns = system_clock().now_ns();
    TRY_ASSIGN(const json after, taking.stop());
    TRY_ASSIGN(const json saved, taking.save());
    TRY(taking.start_ram());
    TRY(disks.start_save(before, after));
    const auto copied = taking.finish_ram();
    auto manifests = disks.finish_save();
    TRY(copied);
    TRY(manifests);
    bundle_.manifest = {{"format", k_format},
                        {"tool_version", k_version},
                        {"taken", utc_seconds(system_clock().wall_ns() / k_ns_per_s)}};
    bundle_.manifest["devices"] = saved["devices"];
    bundle_.manifest["was_paused"] = get_bool(saved, "was_paused");
    bundle_.manifest["ram_from"] = get_string(saved, "ram_from");
    bundle_.manifest["disks"] = std::move(*manifests);
    bundle_.manifest["frozen"] = options_.freeze;
    if (options_.stop) {
      const uint64_t ns = system_clock().now_ns() - since_ns;
      bundle_.manifest["paused_ms"] = static_cast<double>(ns / 1000) / 1000;
      return {};
    }
    TRY_ASSIGN(const json end, taking.end());
    bundle_.manifest["paused_ms"] = end["paused_ms"];
    if (options_.freeze) TRY(taking.thaw());
    disks_.reset();
    taking_.reset();
    return {};
  }

  Result<> describe() {
    if (const std::string parent = get_string(state_, "restored_from"); !parent.empty())
      bundle_.manifest["parent"] = parent;
    TRY_ASSIGN(bundle_.manifest["saved"], saved_record(vm_, state_, bundle_.dir));
    TRY_ASSIGN(bundle_.manifest["boot_files"], boot_files(bundle_.manifest["saved"]["hardware"]));
    return {};
  }

  const RunDir& run_;
  const Object& vm_;
  const TakeOptions& options_;
  Deadline deadline_;
  json state_;
  std::optional<SavedDisks> disks_;
  std::optional<vm::Taking> taking_;
  Bundle bundle_;
};

}  // namespace

Result<Bundle> take(const RunDir& run, const Object& vm, const std::string& dir,
                    const TakeOptions& options, const Deadline& deadline) {
  TRY_ASSIGN(const LockFile lock, vm::lock_vm(vm, deadline));
  return Take(run, vm, options, deadline).into(dir);
}

}  // namespace pv::snap
