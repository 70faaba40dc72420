// SPDX-License-Identifier: MIT
#include "snap/bundle.hpp"

#include <algorithm>
#include <cerrno>
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/clock.hpp"
#include "base/defer.hpp"
#include "base/fd.hpp"
#include "base/file.hpp"
#include "base/hash.hpp"
#include "base/json.hpp"
#include "base/text.hpp"

namespace pv::snap {
namespace {

constexpr size_t k_max_manifest = 16 << 20;
constexpr const char* k_verified_file = "verified";
constexpr int k_bundle_max_depth = 3;
constexpr size_t k_max_files = 4096;

tl::unexpected<Error> corrupt(const std::string& dir, std::string_view what) {
  return fail(Code::snapshot_corrupt, fmt::format("snapshot {}: {}", dir, what));
}

// The relative paths of all files but the manifest and `verified`.
Result<> walk(const std::string& dir, const std::string& below, int depth,
              std::vector<std::string>& files) {
  const std::string path = below.empty() ? dir : dir + "/" + below;
  DIR* open_dir = opendir(path.c_str());
  if (!open_dir) return fail_errno("cannot read " + path, errno);
  DEFER(closedir(open_dir));
  while (const dirent* entry = readdir(open_dir)) {
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    if (below.empty() && (name == k_manifest_file || name == k_verified_file)) continue;
    const std::string relative = below.empty() ? name : below + "/" + name;
    struct stat st {};
    if (lstat((dir + "/" + relative).c_str(), &st) < 0) return fail_errno("lstat", errno);
    if (S_ISDIR(st.st_mode) && depth < k_bundle_max_depth)
      TRY(walk(dir, relative, depth + 1, files));
    else
      files.push_back(relative);
    if (files.size() > k_max_files) return fail(Code::invalid, "too many files in " + dir);
  }
  return {};
}

Result<Fd> open_file(const std::string& path) {
  Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return fail_errno("cannot open " + path, errno);
  return fd;
}

std::string manifest_text(const json& manifest) {
  return manifest.dump(2) + "\n";
}

std::string hash_of(const json& manifest) {
  json rest = manifest;
  rest.erase("hash");
  RunningHash hash;
  hash.add(to_line(rest));
  return hash.text();
}

// A name that stays in the directory.
bool is_inside(const std::string& name) {
  if (name.empty() || name.front() == '/') return false;
  const std::vector<std::string> parts = split(name, '/');
  return std::none_of(parts.begin(), parts.end(),
                      [](const std::string& part) { return part.empty() || part == ".."; });
}

json identity(const struct stat& st) {
  const auto ns = [](const timespec& t) {
    return std::to_string(static_cast<uint64_t>(t.tv_sec) * k_ns_per_s +
                          static_cast<uint64_t>(t.tv_nsec));
  };
  return {std::to_string(st.st_dev), std::to_string(st.st_ino), st.st_size, ns(st.st_mtim),
          ns(st.st_ctim)};
}

Result<json> identities(const Bundle& bundle) {
  json all = {{"hash", get_string(bundle.manifest, "hash")}};
  for (const json& file : bundle.manifest["files"]) {
    const std::string name = get_string(file, "name");
    struct stat st {};
    if (lstat(bundle.path(name).c_str(), &st) < 0) return fail_errno("lstat", errno);
    all["files"][name] = identity(st);
  }
  return all;
}

bool is_known_whole(const Bundle& bundle) {
  struct stat st {};
  if (lstat(bundle.path(k_verified_file).c_str(), &st) < 0 || !S_ISREG(st.st_mode)) return false;
  const auto text = read_file(bundle.path(k_verified_file), k_max_manifest);
  const auto known = text ? parse_json(*text) : fail(text.error());
  const auto now = identities(bundle);
  return known && now && *known == *now;
}

// Fails on a read-only file system, and then it is read again the next time.
void note_whole(const Bundle& bundle) {
  if (const auto now = identities(bundle))
    static_cast<void>(write_file_atomic(bundle.path(k_verified_file), to_line(*now)));
}

Result<> check_form(const Bundle& bundle) {
  const json& manifest = bundle.manifest;
  if (!manifest.is_object()) return corrupt(bundle.dir, "its manifest is damaged");
  if (hash_of(manifest) != get_string(manifest, "hash"))
    return corrupt(bundle.dir, "its manifest is damaged");
  if (get_u64(manifest, "format") != k_format)
    return fail(Code::incompatible, fmt::format("snapshot {} is of format {}, this is {}",
                                                bundle.dir, get_u64(manifest, "format"), k_format));
  for (const char* key : {"saved", "devices", "disks"})
    if (!find(manifest, key) || !manifest[key].is_object())
      return corrupt(bundle.dir, fmt::format("its manifest has no \"{}\"", key));
  if (!find(manifest, "files") || !manifest["files"].is_array())
    return corrupt(bundle.dir, "its manifest lists no files");
  return {};
}

Result<> check_files(const Bundle& bundle) {
  bool ram = false, state = false;
  for (const json& file : bundle.manifest["files"]) {
    const std::string name = get_string(file, "name");
    if (!is_inside(name)) return corrupt(bundle.dir, "its manifest lists a file outside of it");
    struct stat st {};
    if (lstat(bundle.path(name).c_str(), &st) < 0 || !S_ISREG(st.st_mode))
      return corrupt(bundle.dir, fmt::format("{} is missing", name));
    if (static_cast<uint64_t>(st.st_size) != get_u64(file, "size_bytes", UINT64_MAX))
      return corrupt(bundle.dir, fmt::format("{} has {} bytes, {} were written", name, st.st_size,
                                             get_u64(file, "size_bytes")));
    ram = ram || name == k_ram_file;
    state = state || name == k_state_file;
  }
  if (!ram || !state) return corrupt(bundle.dir, "it has no memory or no devices");
  return {};
}

Result<> sync_dir(const std::string& path) {
  const Fd fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || fsync(fd.get()) < 0) return fail_errno("cannot sync " + path, errno);
  return {};
}

}  // namespace

Result<Bundle> open_bundle(const std::string& dir) {
  Bundle bundle;
  bundle.dir = dir;
  struct stat st {};
  if (stat(dir.c_str(), &st) < 0 || !S_ISDIR(st.st_mode))
    return fail(Code::no_such_snapshot, "no snapshot " + dir);
  if (stat(bundle.path(k_manifest_file).c_str(), &st) == 0 && !S_ISREG(st.st_mode))
    return corrupt(dir, "its manifest.json is no file");
  const auto text = read_file(bundle.path(k_manifest_file), k_max_manifest);
  if (!text && text.error().sys_errno == ENOENT)
    return corrupt(dir, "it has no manifest.json: is it a snapshot at all?");
  if (!text) return corrupt(dir, text.error().message);
  auto manifest = parse_json(*text);
  if (!manifest || manifest_text(*manifest) != *text)
    return corrupt(dir, "its manifest is damaged");
  bundle.manifest = std::move(*manifest);
  TRY(check_form(bundle));
  TRY(check_files(bundle));
  return bundle;
}

Result<> verify(const Bundle& bundle, bool thorough) {
  if (!thorough && is_known_whole(bundle)) return {};
  for (const json& file : bundle.manifest["files"]) {
    const std::string name = get_string(file, "name");
    auto fd = open_file(bundle.path(name));
    if (!fd) return corrupt(bundle.dir, fd.error().message);
    TRY_ASSIGN(const std::string hash, hash_of_file(fd->get(), name));
    if (hash != get_string(file, "xxh3")) return corrupt(bundle.dir, name + " is damaged");
  }
  note_whole(bundle);
  return {};
}

Result<> seal(Bundle& bundle) {
  std::vector<std::string> names;
  TRY(walk(bundle.dir, "", 0, names));
  std::sort(names.begin(), names.end());
  json files = json::array();
  std::vector<std::string> dirs = {bundle.dir};
  for (const std::string& name : names) {
    TRY_ASSIGN(const Fd fd, open_file(bundle.path(name)));
    if (fsync(fd.get()) < 0) return fail_errno("cannot write " + bundle.path(name), errno);
    struct stat st {};
    if (fstat(fd.get(), &st) < 0) return fail_errno("fstat", errno);
    TRY_ASSIGN(const std::string hash, hash_of_file(fd.get(), name));
    files.push_back({{"name", name}, {"size_bytes", st.st_size}, {"xxh3", hash}});
    const std::string parent = bundle.path(name).substr(0, bundle.path(name).rfind('/'));
    if (std::find(dirs.begin(), dirs.end(), parent) == dirs.end()) dirs.push_back(parent);
  }
  bundle.manifest["files"] = files;
  bundle.manifest["hash"] = hash_of(bundle.manifest);
  const std::string path = bundle.path(k_manifest_file);
  TRY(write_file_atomic(path, manifest_text(bundle.manifest)));
  TRY_ASSIGN(const Fd fd, open_file(path));
  if (fsync(fd.get()) < 0) return fail_errno("cannot write " + path, errno);
  for (const std::string& dir : dirs) TRY(sync_dir(dir));
  note_whole(bundle);
  return {};
}

uint64_t disk_usage(const std::string& dir) {
  std::vector<std::string> names;
  if (!walk(dir, "", 0, names)) return 0;
  names.emplace_back(k_manifest_file);
  uint64_t bytes = 0;
  for (const std::string& name : names) {
    struct stat st {};
    if (lstat((dir + "/" + name).c_str(), &st) == 0)
      bytes += static_cast<uint64_t>(st.st_blocks) * 512;
  }
  return bytes;
}

json snap_document(const Bundle& bundle) {
  const json& manifest = bundle.manifest;
  json disks = json::array();
  for (const auto& [id, disk] : manifest["disks"].items()) disks.push_back(id);
  json snap = {{"path", bundle.dir},
               {"size_bytes", disk_usage(bundle.dir)},
               {"vm", get_string(manifest["saved"], "name")},
               {"profile", get_string(manifest["saved"], "profile")},
               {"disks", disks}};
  for (const char* key : {"taken", "paused_ms", "was_paused", "frozen", "parent"})
    if (const json* value = find(manifest, key)) snap[key] = *value;
  snap["memory_bytes"] = get_u64(manifest["saved"], "memory_bytes");
  snap["qemu_version"] = get_string(manifest["saved"], "qemu_version");
  return snap;
}

}  // namespace pv::snap
