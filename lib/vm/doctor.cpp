// SPDX-License-Identifier: MIT
// What this machine can do for VMs and disks, and what to install for the rest.
#include <sys/syscall.h>
#include <unistd.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/text.hpp"
#include "vm/machine.hpp"
#include "vm/profile.hpp"

namespace pv::vm {
namespace {

struct Tool {
  const char* program;
  const char* package;
  const char* why;
  bool essential;
};
constexpr Tool k_tools[] = {
    {"qemu-system-x86_64", "qemu-system-x86", "runs VMs", true},
    {"qemu-storage-daemon", "qemu-utils", "opens qcow2, vmdk and other formats", false},
    {"dpkg-deb", "dpkg", "unpacks what 'pv-vm guest build' downloads", false},
    {"mke2fs", "e2fsprogs", "makes the file systems of the demo", false},
};

bool is_installed(const std::string& program) {
  const char* path = getenv("PATH");
  for (const std::string& dir : split(path ? path : "/usr/bin:/bin", ':'))
    if (access((dir + "/" + program).c_str(), X_OK) == 0) return true;
  // A user's PATH often lacks these.
  for (const char* dir : {"/usr/sbin/", "/sbin/"})
    if (access((dir + program).c_str(), X_OK) == 0) return true;
  return false;
}

// Asks the kernel for a ring of size 0: EINVAL when it would make one, EPERM or ENOSYS when not.
std::string io_uring_problem() {
  if (syscall(SYS_io_uring_setup, 0, nullptr) >= 0 || errno == EINVAL || errno == EFAULT) return "";
  return strerrordesc_np(errno);
}

json yes_or(const std::string& problem) {
  return problem.empty() ? json(true) : json(false);
}

}  // namespace

json doctor_document(const RunDir& run) {
  json doctor = {{"can_run_vms", false}};
  std::vector<std::string> problems, packages;
  const std::string kvm = kvm_problem();
  const auto qemu = find_qemu(run);
  const auto tiny = load_profile("tiny");
  doctor["accel"] = kvm.empty() ? "kvm" : "tcg";
  doctor["kvm"] = yes_or(kvm);
  if (!kvm.empty()) doctor["kvm_problem"] = kvm;
  doctor["tcg"] = qemu.has_value();
  doctor["qemu"] = qemu ? json(qemu->path) : json();
  doctor["qemu_version"] = qemu ? json(qemu->version) : json();
  doctor["qemu_sandbox"] = qemu && qemu->sandbox;
  if (!qemu) problems.push_back(qemu.error().message);
  const std::string uring = io_uring_problem();
  doctor["io_uring"] = yes_or(uring);
  if (!uring.empty()) doctor["io_uring_problem"] = uring;
  doctor["vsock"] = access("/dev/vhost-vsock", R_OK | W_OK) == 0;
  for (const Tool& tool : k_tools) {
    const bool there = is_installed(tool.program);
    std::string key = tool.program;
    std::replace(key.begin(), key.end(), '-', '_');
    if (!tool.essential) doctor[key] = there;
    const bool replaced = tool.essential && qemu;  // by $PV_QEMU
    if (there || replaced) continue;
    packages.emplace_back(tool.package);
    if (!tool.essential) problems.push_back(fmt::format("no {} ({})", tool.program, tool.why));
  }
  doctor["guest_built"] = tiny.has_value();
  if (tiny)
    doctor["kernel"] = tiny->kernel;
  else
    problems.push_back(tiny.error().message);
  if (tiny && !tiny->kernel_version.empty()) doctor["kernel_version"] = tiny->kernel_version;
  doctor["run_dir"] = run.path();
  doctor["missing_packages"] = packages;
  if (!packages.empty()) doctor["install"] = "apt install " + join(packages, " ");
  doctor["problems"] = problems;
  doctor["can_run_vms"] = qemu.has_value() && tiny.has_value();
  return doctor;
}

}  // namespace pv::vm
