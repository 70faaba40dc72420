// SPDX-License-Identifier: MIT
#include "guest/initrd.hpp"

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/process.hpp"
#include "base/text.hpp"
#include "guest/cpio.hpp"
#include "guest/libraries.hpp"
#include "guest/scripts.hpp"

namespace pv::guest {
namespace {

constexpr size_t k_initrd_max_program = size_t{256} << 20;
constexpr const char* k_library_dir = "usr/lib/x86_64-linux-gnu";

// One folder for programs and one for libraries, whatever path a script uses for them.
void add_skeleton(CpioWriter& out) {
  for (const char* path :
       {"usr/bin", "usr/lib", "lib64", "proc", "sys", "dev", "run", "mnt", "etc", "root", "var"})
    out.dir(path);
  out.dir("tmp", 01777);
  out.symlink("bin", "usr/bin");
  out.symlink("sbin", "usr/bin");
  out.symlink("usr/sbin", "bin");
  out.symlink("lib", "usr/lib");
  out.symlink("var/run", "/run");
  out.symlink("var/tmp", "/tmp");
  out.symlink("etc/mtab", "/proc/mounts");
  // The kernel opens it for the first process before anything is mounted.
  out.char_device("dev/console", 0600, 5, 1);
}

Result<> add_busybox(CpioWriter& out, const std::string& path, const Deadline& deadline) {
  TRY_ASSIGN(const std::string bytes, read_file(path, k_initrd_max_program));
  out.file("usr/bin/busybox", bytes, 0755);
  TRY_ASSIGN(const Output list, run_program({path, "--list"}, deadline));
  if (list.status.code != 0 || list.status.signal != 0)
    return fail(Code::unavailable, fmt::format("{} --list: {}", path, list.status.describe()));
  for (const std::string& applet : split(list.out, '\n'))
    if (!applet.empty() && applet != "busybox" && applet.find('/') == std::string::npos)
      out.symlink("usr/bin/" + applet, "busybox");
  return {};
}

Result<> add_agent(CpioWriter& out, const InitrdParts& parts) {
  TRY_ASSIGN(const std::string bytes, read_file(parts.agent, k_initrd_max_program));
  out.file("usr/bin/qemu-ga", bytes, 0755);
  TRY_ASSIGN(const Libraries closure, close_libraries(parts.agent_root, parts.agent));
  for (const Library& library : closure.libraries) {
    TRY_ASSIGN(const std::string content, read_file(library.path, k_initrd_max_program));
    out.file(fmt::format("{}/{}", k_library_dir, library.soname), content, 0755);
  }
  const std::string& loader = closure.interpreter;
  if (!loader.empty())
    out.symlink(loader, fmt::format("/{}/{}", k_library_dir, loader.substr(loader.rfind('/') + 1)));
  return {};
}

// As modprobe wants them: the files, what each depends on (nearest first), and other names.
void add_modules(CpioWriter& out, const InitrdParts& parts) {
  const std::string dir = "usr/lib/modules/" + parts.kernel_version;
  std::map<std::string, std::string> closures;
  std::string dep, alias, order;
  for (const Module& module : parts.modules->load_order) {
    const std::string file = module.name + ".ko";
    out.file(dir + "/" + file, module.data);
    std::string closure;
    for (const std::string& each : module.depends) {
      if (closures.count(each) == 0) continue;  // part of the kernel
      closure += fmt::format(" {}.ko{}", each, closures[each]);
    }
    closures[module.name] = closure;
    dep += fmt::format("{}:{}\n", file, closure);
    for (const std::string& name : module.aliases)
      alias += fmt::format("alias {} {}\n", printable(name), module.name);
    if (!module.on_demand) order += module.name + "\n";
  }
  out.file("usr/lib/modules/load-order", order);
  if (dep.empty()) return;
  out.file(dir + "/modules.dep", dep);
  out.file(dir + "/modules.alias", alias);
}

}  // namespace

Result<std::string> make_initrd(const InitrdParts& parts, const Deadline& deadline) {
  CpioWriter out;
  add_skeleton(out);
  TRY(add_busybox(out, parts.busybox, deadline));
  TRY(add_agent(out, parts));
  add_modules(out, parts);
  for (const GuestText* each = k_guest_texts; !each->path.empty(); ++each)
    out.file(each->path, each->text, each->mode);
  for (const UserFile& file : *parts.files) out.file(file.dest, file.data, file.mode);
  return out.finish();
}

}  // namespace pv::guest
