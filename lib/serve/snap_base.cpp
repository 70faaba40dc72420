// SPDX-License-Identifier: MIT
#include "serve/snap_base.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sys/stat.h>

#include <fmt/format.h>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/registry.hpp"
#include "blk/uri.hpp"

namespace pv::serve {
namespace {

constexpr size_t k_snap_base_max_files = 4096;

struct Identity {
  uint64_t size, mtime_ns, ino;
};

Identity identity_of(const struct stat& st) {
  return {static_cast<uint64_t>(st.st_size),
          static_cast<uint64_t>(st.st_mtim.tv_sec) * k_ns_per_s +
              static_cast<uint64_t>(st.st_mtim.tv_nsec),
          st.st_ino};
}

Result<> add(json& files, const std::string& path) {
  struct stat st {};
  if (stat(path.c_str(), &st) < 0) return fail_errno("cannot stat " + path, errno);
  if (!S_ISREG(st.st_mode)) return {};  // a device, a URI's socket: known by nothing
  const Identity now = identity_of(st);
  files.push_back({{"path", path},
                   {"size_bytes", now.size},
                   {"mtime_ns", std::to_string(now.mtime_ns)},
                   {"ino", std::to_string(now.ino)}});
  return {};
}

// The images that a layer reads from.
std::vector<std::string> files_of(const blk::LayerSpec& layer) {
  const char* key = layer.name == "cow" ? "file" : layer.name == "stripe" ? "with" : "";
  const auto given = layer.params.find(key);
  if (given == layer.params.end()) return {};
  if (layer.name == "cow") return {given->second};
  std::vector<std::string> paths = blk::split_doubled(given->second, '+');
  std::erase_if(paths, [](const std::string& path) { return blk::is_uri(path); });
  return paths;
}

tl::unexpected<Error> changed(const std::string& path, const std::string& how) {
  return fail(Error(Code::incompatible,
                    fmt::format("the snapshot stands on {}, which {}", printable(path), how))
                  .with("base", path));
}

}  // namespace

Result<json> base_files(const Spec& spec, const std::vector<blk::LayerSpec>& layers,
                        const std::vector<std::pair<size_t, std::string>>& saved) {
  json files = json::array();
  for (size_t i = saved.empty() ? 0 : saved.front().first; i < layers.size(); ++i) {
    const auto is = [&](const auto& one) { return one.first == i; };
    if (std::any_of(saved.begin(), saved.end(), is)) continue;
    for (const std::string& path : files_of(layers[i])) TRY(add(files, path));
  }
  if (spec.type == "image") TRY(add(files, spec.path));
  return files;
}

Result<> check_base_files(const json& files) {
  const auto bad = [] {
    return fail(Code::snapshot_corrupt, "the snapshot's list of files that it stands on is none");
  };
  if (!files.is_array() || files.size() > k_snap_base_max_files) return bad();
  for (const json& file : files) {
    const std::string path = get_string(file, "path");
    if (path.empty() || path[0] != '/' || path.find('\0') != std::string::npos) return bad();
    struct stat st {};
    if (stat(path.c_str(), &st) < 0)
      return changed(path, errno == ENOENT ? "is gone" : strerrordesc_np(errno));
    const Identity now = identity_of(st);
    if (now.size != get_u64(file, "size_bytes", UINT64_MAX))
      return changed(
          path, fmt::format("has {} bytes instead of {}", now.size, get_u64(file, "size_bytes")));
    if (std::to_string(now.mtime_ns) != get_string(file, "mtime_ns"))
      return changed(path, "has been changed since (its time of modification is another)");
    if (std::to_string(now.ino) != get_string(file, "ino"))
      return changed(path, "has been replaced since (its inode is another)");
  }
  return {};
}

}  // namespace pv::serve
