// SPDX-License-Identifier: MIT
#include "guest/source.hpp"

#include <cstring>
#include <initializer_list>
#include <optional>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/text.hpp"
#include "guest/elf.hpp"
#include "guest/key.hpp"

namespace pv::guest {
namespace {

constexpr size_t k_source_max_program = size_t{64} << 20;

bool readable(const std::string& path) {
  return access(path.c_str(), R_OK) == 0;
}

std::optional<std::string> first_readable(const std::string& root,
                                          std::initializer_list<const char*> paths) {
  for (const char* path : paths)
    if (readable(root + path)) return root + path;
  return std::nullopt;
}

std::string modules_dir(const std::string& root, const std::string& version) {
  for (const char* folder : {"/lib/modules/", "/usr/lib/modules/"})
    if (const std::string dir = root + folder + version; readable(dir)) return dir;
  return {};
}

}  // namespace

Source package_source(const PartPackages& part) {
  Source source{part.part, false, part.packages, {}, {}};
  for (const Package& package : part.packages) source.identity += package.file + "\n";
  return source;
}

Result<Source> host_source(Part part) {
  Source source{part, true, {}, {}, {}};
  std::string path;
  if (part == Part::kernel) {
    TRY_ASSIGN(const KernelFiles kernel, find_kernel(""));
    path = kernel.image;
  } else if (part == Part::busybox) {
    TRY_ASSIGN(path, find_busybox(""));
  } else {
    TRY_ASSIGN(path, find_agent(""));
  }
  TRY_ASSIGN(const std::string bytes, read_file(path, size_t{256} << 20));
  source.identity = path + " " + content_hash(bytes);
  return source;
}

Result<KernelFiles> find_kernel(const std::string& root) {
  constexpr std::string_view k_prefix = "vmlinuz-";
  KernelFiles newest;
  for (const std::string& file : list_dir(root + "/boot")) {
    if (file.compare(0, k_prefix.size(), k_prefix) != 0) continue;
    KernelFiles found;
    found.version = file.substr(k_prefix.size());
    found.image = fmt::format("{}/boot/{}", root, file);
    found.modules_dir = modules_dir(root, found.version);
    if (!readable(found.image) || found.modules_dir.empty()) continue;
    if (strverscmp(found.version.c_str(), newest.version.c_str()) > 0) newest = found;
  }
  if (newest.image.empty())
    return fail(Code::unavailable, root.empty() ? "no readable kernel with modules is installed"
                                                : "the package holds no kernel with modules");
  return newest;
}

std::string find_modules_for(const std::string& kernel_path, const std::string& version) {
  if (version.empty()) return {};
  const std::string folder = kernel_path.substr(0, kernel_path.rfind('/'));
  for (const std::string& root : {folder, folder + "/.."})
    if (std::string dir = modules_dir(root, version); !dir.empty()) return dir;
  return modules_dir("", version);
}

Result<std::string> find_busybox(const std::string& root) {
  const auto path = first_readable(root, {"/bin/busybox", "/usr/bin/busybox"});
  if (!path) return fail(Code::unavailable, "busybox-static is not installed");
  TRY_ASSIGN(const std::string bytes, read_file(*path, k_source_max_program));
  TRY_ASSIGN(const ElfInfo info, read_elf(bytes));
  if (!info.interpreter.empty())
    return fail(Code::unavailable,
                fmt::format("{} is not static: busybox-static is needed", *path));
  return *path;
}

Result<std::string> find_agent(const std::string& root) {
  const auto path = first_readable(root, {"/usr/sbin/qemu-ga", "/usr/bin/qemu-ga"});
  if (!path) return fail(Code::unavailable, "qemu-guest-agent is not installed");
  return *path;
}

}  // namespace pv::guest
