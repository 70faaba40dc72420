// SPDX-License-Identifier: MIT
// What this machine can do for VMs and disks, and what to install for the rest: one function for
// each check, one line for each in a table.
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <dlfcn.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/process.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "guest/cache.hpp"
#include "vm/hardware.hpp"
#include "vm/machine.hpp"
#include "vm/profile/profile.hpp"
#include "vm/snapshot_probe.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_doctor_probe_ms = 10'000;
constexpr uint64_t k_low_space = 256 << 20;  // less than a guest image with its downloads needs

// What the checks share, found out once.
struct Facts {
  const RunDir& run;
  Result<Qemu> qemu;
  Result<Profile> tiny;
  std::string kvm;                       // why not, or ""
  std::string accels, devices, folders;  // what QEMU says of itself
};

struct Finding {
  bool good = false;
  std::string detail;
  const char* package = nullptr;  // to install when it is not good
};

std::string ask_qemu(const Result<Qemu>& qemu, const char* flag) {
  if (!qemu) return "";
  auto output = run_program({qemu->path, flag, "help"}, Deadline::in_ms(k_doctor_probe_ms));
  return output ? output->out : "";
}

bool has_line(const std::string& text, std::string_view wanted) {
  for (const std::string& line : split(text, '\n'))
    if (line.find(wanted) != std::string::npos) return true;
  return false;
}

// The path of a program; a user's PATH often lacks the sbin folders.
std::string program_path(const std::string& program) {
  const char* path = getenv("PATH");
  std::vector<std::string> dirs = split(path ? path : "/usr/bin:/bin", ':');
  dirs.insert(dirs.end(), {"/usr/sbin", "/sbin"});
  for (const std::string& dir : dirs) {
    const std::string file = dir + "/" + program;
    if (access(file.c_str(), X_OK) == 0) return file;
  }
  return "";
}

Finding program(const std::string& name, const char* package, const char* use) {
  const std::string path = program_path(name);
  if (!path.empty()) return {true, path, package};
  return {false, fmt::format("no {}, which {}", name, use), package};
}

Finding check_qemu(const Facts& facts) {
  if (!facts.qemu) return {false, facts.qemu.error().message, "qemu-system-x86"};
  return {true, fmt::format("{} {}", facts.qemu->version, facts.qemu->path), nullptr};
}

Finding check_guest(const Facts& facts) {
  if (!facts.tiny) return {false, facts.tiny.error().message, nullptr};
  return {true, facts.tiny->kernel_version.empty() ? facts.tiny->kernel
                                                   : "kernel " + facts.tiny->kernel_version};
}

Finding check_kvm(const Facts& facts) {
  if (facts.kvm.empty())
    return {true, "/dev/kvm; untested: tell us how it goes, with what --json prints here"};
  return {false, facts.kvm + "; VMs run under TCG, which is slower"};
}

Finding check_tcg(const Facts& facts) {
  if (has_line(facts.accels, "tcg")) return {true, "emulation without KVM"};
  return {false, "this QEMU cannot run VMs without KVM"};
}

Finding check_sandbox(const Facts& facts) {
  if (facts.qemu && facts.qemu->sandbox) return {true, "QEMU runs under seccomp"};
  return {false, "this QEMU has no -sandbox: VMs run without"};
}

Finding check_firmware(const Facts& facts) {
  for (const std::string& dir : split(facts.folders, '\n'))
    if (const std::string file = dir + "/bios-256k.bin"; access(file.c_str(), R_OK) == 0)
      return {true, "SeaBIOS: disk images can boot"};
  return {false, "no bios-256k.bin: only guests with a kernel of their own boot", "seabios"};
}

Finding check_vhost_user(const Facts& facts) {
  if (!has_line(facts.devices, "vhost-user-blk-pci"))
    return {false, "this QEMU has no vhost-user-blk-pci"};
  return {true, "vhost-user-blk-pci"};
}

Finding check_snapshots(const Facts& facts) {
  if (!facts.qemu) return {false, "there is no QEMU to take one with"};
  const char* accel = has_line(facts.accels, "tcg") ? "tcg" : "kvm";
  const auto tried = try_snapshot(*facts.qemu, accel, Deadline::in_ms(k_doctor_probe_ms));
  if (tried) return {true, "QEMU saves devices without the guest's memory"};
  return {false, "this QEMU cannot take one: " + tried.error().message};
}

// Asks the kernel for a ring of size 0: EINVAL when it would make one, EPERM or ENOSYS when not.
Finding check_io_uring(const Facts&) {
  const long ring = syscall(SYS_io_uring_setup, 0, nullptr);
  if (ring >= 0 || errno == EINVAL || errno == EFAULT) return {true, "disk servers use it"};
  return {false, fmt::format("{}; disk servers use threads", strerrordesc_np(errno))};
}

Finding check_vsock(const Facts&) {
  if (access("/dev/vhost-vsock", R_OK | W_OK) == 0) return {true, "/dev/vhost-vsock"};
  return {false, fmt::format("/dev/vhost-vsock: {}; not needed", strerrordesc_np(errno))};
}

Finding check_storage_daemon(const Facts&) {
  const char* chosen = getenv("PV_QSD");
  if (chosen && *chosen) return {true, chosen};
  return program("qemu-storage-daemon", "qemu-utils", "opens qcow2, vmdk and other formats");
}

Finding check_libnbd(const Facts&) {
  void* handle = dlopen("libnbd.so.0", RTLD_NOW | RTLD_LOCAL);
  if (!handle) return {false, "no libnbd.so.0, which disks from NBD servers need", "libnbd0"};
  dlclose(handle);
  return {true, "libnbd.so.0"};
}

Finding check_nbdcopy(const Facts&) {
  return program("nbdcopy", "libnbd-bin", "copies disks that are served");
}

Finding check_mke2fs(const Facts&) {
  return program("mke2fs", "e2fsprogs", "makes the file systems of the demo");
}

Finding check_dpkg(const Facts&) {
  return program("dpkg-deb", "dpkg", "unpacks what 'pv-vm guest build' downloads");
}

const char* file_system_name(long type) {
  constexpr std::pair<long, const char*> k_names[] = {
      {TMPFS_MAGIC, "tmpfs"},       {EXT4_SUPER_MAGIC, "ext4"}, {XFS_SUPER_MAGIC, "xfs"},
      {BTRFS_SUPER_MAGIC, "btrfs"}, {NFS_SUPER_MAGIC, "nfs"},   {OVERLAYFS_SUPER_MAGIC, "overlay"},
      {FUSE_SUPER_MAGIC, "fuse"}};
  for (const auto& [magic, name] : k_names)
    if (magic == type) return name;
  return "another file system";
}

// The nearest folder on the way to `path` that is there.
Finding check_space(const std::string& path) {
  std::string there = path;
  struct statfs fs {};
  while (statfs(there.c_str(), &fs) < 0 && there.size() > 1)
    there.resize(std::max<size_t>(there.rfind('/'), 1));
  const uint64_t free_bytes = fs.f_bavail * static_cast<uint64_t>(fs.f_bsize);
  const std::string detail =
      fmt::format("{}, {}, {} free", path, file_system_name(fs.f_type), format_size(free_bytes));
  if (fs.f_type == NFS_SUPER_MAGIC) return {false, detail + "; locks and sockets need a local one"};
  return {free_bytes >= k_low_space, detail};
}

Finding check_run_dir(const Facts& facts) {
  return check_space(facts.run.path());
}

Finding check_cache(const Facts&) {
  const auto cache = guest::locate_cache();
  if (!cache) return {false, cache.error().message};
  return check_space(cache->root);
}

struct Check {
  const char* name;
  const char* key;  // of its own in the document
  bool essential;   // no VM runs without
  bool optional;    // its absence is no problem worth a line
  Finding (*look)(const Facts& facts);
};
constexpr Check k_checks[] = {
    {"QEMU", "qemu_found", true, false, check_qemu},
    {"guest", "guest_built", true, false, check_guest},
    {"KVM", "kvm", false, true, check_kvm},
    {"TCG", "tcg", false, true, check_tcg},
    {"sandbox", "qemu_sandbox", false, false, check_sandbox},
    {"disk guests", "disk_guests", false, false, check_firmware},
    {"vhost-user", "vhost_user", false, false, check_vhost_user},
    {"snapshots", "snapshots", false, false, check_snapshots},
    {"io_uring", "io_uring", false, true, check_io_uring},
    {"vsock", "vsock", false, true, check_vsock},
    {"qemu-storage-daemon", "qemu_storage_daemon", false, false, check_storage_daemon},
    {"libnbd", "libnbd", false, false, check_libnbd},
    {"nbdcopy", "nbdcopy", false, false, check_nbdcopy},
    {"e2fsprogs", "mke2fs", false, false, check_mke2fs},
    {"dpkg-deb", "dpkg_deb", false, false, check_dpkg},
    {"run directory", "run_dir_good", false, false, check_run_dir},
    {"cache", "cache_good", false, false, check_cache},
};

}  // namespace

json doctor_document(const RunDir& run) {
  Facts facts{run, find_qemu(run), load_profile("tiny"), kvm_problem(), "", "", ""};
  facts.accels = ask_qemu(facts.qemu, "-accel");
  facts.devices = ask_qemu(facts.qemu, "-device");
  facts.folders = ask_qemu(facts.qemu, "-L");
  json doctor = {{"can_run_vms", true}, {"reason", nullptr}, {"checks", json::array()}};
  std::vector<std::string> problems, packages, reasons;
  for (const Check& check : k_checks) {
    const Finding finding = check.look(facts);
    const char* status = finding.good ? "ok" : check.essential ? "missing" : "limited";
    doctor["checks"].push_back(
        {{"check", check.name}, {"status", status}, {"detail", finding.detail}});
    doctor[check.key] = finding.good;
    if (finding.good) continue;
    if (check.essential) reasons.push_back(finding.detail);
    if (!check.optional) problems.push_back(finding.detail);
    if (finding.package) packages.emplace_back(finding.package);
  }
  if (facts.qemu && !facts.kvm.empty() && !get_bool(doctor, "tcg"))
    reasons.push_back("neither KVM nor TCG can be used");
  doctor["can_run_vms"] = reasons.empty();
  if (!reasons.empty()) doctor["reason"] = join(reasons, "; ");
  doctor["accel"] = facts.kvm.empty() ? "kvm" : "tcg";
  doctor["qemu"] = facts.qemu ? json(facts.qemu->path) : json();
  doctor["qemu_version"] = facts.qemu ? json(facts.qemu->version) : json();
  if (facts.tiny) {
    doctor["kernel"] = facts.tiny->kernel;
    doctor["kernel_version"] = facts.tiny->kernel_version;
  }
  if (facts.kvm.empty()) doctor["kvm_host"] = kvm_host();
  doctor["run_dir"] = run.path();
  doctor["missing_packages"] = packages;
  if (!packages.empty()) doctor["install"] = "apt install " + join(packages, " ");
  doctor["problems"] = problems;
  return doctor;
}

}  // namespace pv::vm
