// SPDX-License-Identifier: MIT
#include "snap/boot_file.hpp"

#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>

#include <fmt/format.h>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "base/hash.hpp"
#include "base/json.hpp"
#include "base/text.hpp"

namespace pv::snap {
namespace {

std::string mtime_of(const struct stat& st) {
  return std::to_string(static_cast<uint64_t>(st.st_mtim.tv_sec) * k_ns_per_s +
                        static_cast<uint64_t>(st.st_mtim.tv_nsec));
}

Result<json> describe(const std::string& key, const std::string& path) {
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat st {};
  if (!fd || fstat(fd.get(), &st) < 0) return fail_errno("cannot open " + path, errno);
  TRY_ASSIGN(const std::string hash, hash_of_file(fd.get(), path));
  return json{{"key", key},
              {"path", path},
              {"size_bytes", st.st_size},
              {"mtime_ns", mtime_of(st)},
              {"xxh3", hash}};
}

}  // namespace

Result<json> boot_files(const json& hardware) {
  json files = json::array();
  for (const char* key : {"kernel", "initrd"}) {
    const std::string path = get_string(hardware, key);
    if (path.empty() || path.front() != '/') continue;
    TRY_ASSIGN(json file, describe(key, path));
    files.push_back(std::move(file));
  }
  return files;
}

// The same file untouched is the same; one that was copied or built again is looked into.
Result<> check_boot_files(const json& files) {
  for (const json& file : files) {
    const std::string path = get_string(file, "path"), key = get_string(file, "key");
    const auto differs = [&](const std::string& what) {
      return fail(Error(Code::incompatible, fmt::format("the {} {} {}", key, path, what))
                      .with("differs", json::array({key})));
    };
    struct stat st {};
    if (stat(path.c_str(), &st) < 0) return differs("is gone");
    if (static_cast<uint64_t>(st.st_size) != get_u64(file, "size_bytes"))
      return differs("is another than when the snapshot was taken");
    if (mtime_of(st) == get_string(file, "mtime_ns")) continue;
    auto now = describe(key, path);
    if (!now || get_string(*now, "xxh3") != get_string(file, "xxh3"))
      return differs("is another than when the snapshot was taken");
  }
  return {};
}

}  // namespace pv::snap
