// SPDX-License-Identifier: MIT
#include "guest/cpio.hpp"

#include <sys/stat.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/text.hpp"

namespace pv::guest {
namespace {

constexpr size_t k_align = 4;  // of the header with its name, and of the data
constexpr size_t k_archive_align = 512;
constexpr size_t k_max_path = 4095;      // PATH_MAX of the kernel's unpacker, less the NUL
constexpr size_t k_cpio_max_name = 255;  // NAME_MAX; the unpacker drops what is longer

void pad(std::string& out, size_t align) {
  out.append((align - out.size() % align) % align, '\0');
}

}  // namespace

Result<std::string> clean_guest_path(std::string_view path) {
  if (path.find('\0') != std::string_view::npos)
    return fail(Code::usage, "a path in the guest has a NUL byte");
  std::vector<std::string> parts;
  for (std::string& part : split(path, '/')) {
    if (part == "..")
      return fail(Code::usage, fmt::format("path in the guest '{}' has '..'", printable(path)));
    if (part.size() > k_cpio_max_name)
      return fail(Code::usage, fmt::format("a name of {} bytes in a path in the guest; {} are the "
                                           "most",
                                           part.size(), k_cpio_max_name));
    if (!part.empty() && part != ".") parts.push_back(std::move(part));
  }
  std::string clean = join(parts, "/");
  if (clean.empty())
    return fail(Code::usage, fmt::format("path in the guest '{}' names no file", printable(path)));
  if (clean.size() + 1 > k_max_path)  // with the slash of the root
    return fail(Code::usage,
                fmt::format("a path in the guest is longer than {} bytes", k_max_path));
  return clean;
}

void CpioWriter::refuse(std::string_view path, std::string_view why) {
  if (!state_) return;
  const char* root = path.empty() || path[0] != '/' ? "/" : "";
  state_ = fail(Code::usage, fmt::format("guest file '{}{}': {}", root, printable(path), why));
}

// A folder that is a link, like the kernel's unpacker, leads to where the link points.
std::string CpioWriter::follow_links(std::string path) {
  constexpr int k_most_links = 40;  // as the kernel: MAXSYMLINKS
  int links = 0;
  for (size_t slash = path.find('/'); slash != std::string::npos;) {
    const std::string parent = path.substr(0, slash);
    const auto link = links_.find(parent);
    if (link == links_.end()) {
      slash = path.find('/', slash + 1);
      continue;
    }
    const std::string& target = link->second;
    const std::string base = parent.substr(0, parent.rfind('/') + 1);
    const bool nested = parent.find('/') != std::string::npos;
    const std::string prefix = target[0] == '/' || !nested ? "" : base;
    auto clean = clean_guest_path(prefix + target + path.substr(slash));
    if (!clean || ++links > k_most_links) {
      refuse(path, "leads through a link that cannot be followed");
      return {};
    }
    path = std::move(*clean);
    slash = path.find('/');
  }
  return path;
}

std::string CpioWriter::enter(std::string_view path, uint32_t type) {
  auto given = clean_guest_path(path);
  if (!given) {
    if (state_) state_ = fail(given.error());
    return {};
  }
  const std::string clean = follow_links(*given);
  for (size_t slash = clean.find('/'); slash != std::string::npos;
       slash = clean.find('/', slash + 1)) {
    const std::string parent = clean.substr(0, slash);
    const auto known = types_.find(parent);
    if (known == types_.end()) {
      dir(parent);
    } else if (known->second != S_IFDIR) {
      refuse(path, fmt::format("/{} is not a directory", parent));
      return {};
    }
  }
  if (clean.empty()) return {};
  const auto known = types_.find(clean);
  if (known != types_.end() && (known->second == S_IFDIR) != (type == S_IFDIR)) {
    refuse(path, known->second == S_IFDIR ? "is a directory" : "exists and is not a directory");
    return {};
  }
  types_[clean] = type;
  links_.erase(clean);
  return clean;
}

void CpioWriter::append(const Entry& entry, std::string_view data) {
  if (data.size() > UINT32_MAX) return refuse(entry.path, "larger than 4 GiB");
  const uint32_t ino = ++last_ino_;
  // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
  out_ += fmt::format(
      "070701{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}"
      "{:08X}{:08X}",
      ino, entry.mode, entry.owner.uid, entry.owner.gid, entry.nlink, 0, data.size(), 0, 0,
      entry.major, entry.minor, entry.path.size() + 1, 0);
  out_ += entry.path;
  out_ += '\0';
  pad(out_, k_align);
  out_ += data;
  pad(out_, k_align);
}

void CpioWriter::dir(std::string_view path, uint32_t mode, Owner owner) {
  const std::string clean = enter(path, S_IFDIR);
  if (!clean.empty()) append({clean, S_IFDIR | mode, 2, owner, 0, 0}, {});
}

void CpioWriter::file(std::string_view path, std::string_view data, uint32_t mode, Owner owner) {
  const std::string clean = enter(path, S_IFREG);
  if (!clean.empty()) append({clean, S_IFREG | mode, 1, owner, 0, 0}, data);
}

void CpioWriter::symlink(std::string_view path, std::string_view target, Owner owner) {
  if (target.empty() || target.size() > k_max_path) return refuse(path, "bad link target");
  const std::string clean = enter(path, S_IFLNK);
  if (clean.empty()) return;
  links_[clean] = target;
  append({clean, S_IFLNK | 0777, 1, owner, 0, 0}, target);
}

void CpioWriter::assume(std::string_view path, uint32_t type, std::string_view target) {
  types_[std::string(path)] = type;
  if (type == S_IFLNK) links_[std::string(path)] = target;
}

std::string CpioWriter::resolved(std::string_view path) {
  const auto clean = clean_guest_path(path);
  return clean ? follow_links(*clean) : std::string();
}

void CpioWriter::char_device(std::string_view path, uint32_t mode, uint32_t major, uint32_t minor) {
  const std::string clean = enter(path, S_IFCHR);
  if (!clean.empty()) append({clean, S_IFCHR | mode, 1, {}, major, minor}, {});
}

Result<std::string> CpioWriter::finish() {
  TRY(state_);
  append({"TRAILER!!!", 0, 1, {}, 0, 0}, {});
  pad(out_, k_archive_align);
  return std::move(out_);
}

}  // namespace pv::guest
