// SPDX-License-Identifier: MIT
#include "guest/image.hpp"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"

namespace pv::guest {
namespace {

constexpr size_t k_max_manifest = size_t{4} << 20;
constexpr size_t k_key_length = 32;

std::optional<uint64_t> file_size(const std::string& path) {
  struct stat st {};
  if (stat(path.c_str(), &st) < 0 || !S_ISREG(st.st_mode)) return std::nullopt;
  return static_cast<uint64_t>(st.st_size);
}

// The key that a name points to; nullopt when there is no such link.
std::optional<std::string> key_of(const Cache& cache, const std::string& name) {
  char target[k_key_length + 1];
  const ssize_t n = readlink((cache.images() + "/" + name).c_str(), target, sizeof target);
  if (n != static_cast<ssize_t>(k_key_length)) return std::nullopt;
  std::string key(target, k_key_length);
  if (key.find_first_not_of("0123456789abcdef") != std::string::npos) return std::nullopt;
  return key;
}

uint64_t tree_size(const std::string& dir) {
  uint64_t total = 0;
  std::error_code error;
  std::filesystem::recursive_directory_iterator walk(dir, error), end;
  for (; !error && walk != end; walk.increment(error)) {
    struct stat st {};
    if (lstat(walk->path().c_str(), &st) == 0 && S_ISREG(st.st_mode))
      total += static_cast<uint64_t>(st.st_size);
  }
  return total;
}

}  // namespace

Result<json> read_manifest(const std::string& image_dir) {
  TRY_ASSIGN(const std::string text, read_file(image_dir + "/manifest.json", k_max_manifest));
  return parse_json(text);
}

std::optional<Image> whole_image(const Cache& cache, const std::string& key) {
  const std::string dir = cache.image(key);
  const auto manifest = read_manifest(dir);
  if (!manifest) return std::nullopt;
  Image image{dir + "/kernel", dir + "/initrd", get_string(*manifest, "kernel_version"), key};
  if (file_size(image.kernel) != get_u64(*manifest, "kernel_bytes") ||
      file_size(image.initrd) != get_u64(*manifest, "initrd_bytes"))
    return std::nullopt;
  return image;
}

Result<> set_name(const Cache& cache, const std::string& name, const std::string& key) {
  const std::string link = cache.images() + "/" + name;
  const std::string temp = fmt::format("{}/.tmp-link-{}", cache.images(), getpid());
  unlink(temp.c_str());
  if (symlink(key.c_str(), temp.c_str()) < 0) return fail_errno("cannot create " + temp, errno);
  if (rename(temp.c_str(), link.c_str()) == 0) return {};
  const int err = errno;
  unlink(temp.c_str());
  return fail_errno("cannot replace " + link, err);
}

Result<Image> find(const std::string& name) {
  TRY(check_name("guest image", name));
  TRY_ASSIGN(const Cache cache, locate_cache());
  const auto key = key_of(cache, name);
  if (key)
    if (auto image = whole_image(cache, *key)) return std::move(*image);
  const std::string option = name == k_default_name ? "" : " --name " + name;
  const std::string hint = "pv-vm guest build" + option;
  Error error(Code::unavailable, fmt::format("guest image '{}' {}; run '{}'", name,
                                             key ? "is damaged" : "has not been built", hint));
  return fail(error.with("hint", hint));
}

Result<Image> find_tiny() {
  const char* folder = getenv("PV_GUEST_DIR");
  if (!folder || !*folder) return find(k_default_name);
  const std::string dir = absolute_path(folder);
  Image image{dir + "/kernel", dir + "/initrd", "", ""};
  for (const std::string& path : {image.kernel, image.initrd})
    if (!file_size(path) || access(path.c_str(), R_OK) < 0)
      return fail(Code::unavailable, fmt::format("PV_GUEST_DIR: {} is not a readable file", path));
  if (const auto manifest = read_manifest(dir))
    image.kernel_version = get_string(*manifest, "kernel_version");
  return image;
}

Result<json> describe(const Image& image, const std::string& name) {
  json guest = {{"name", name},
                {"key", image.key},
                {"kernel", image.kernel},
                {"initrd", image.initrd},
                {"kernel_version", image.kernel_version}};
  if (image.key.empty()) guest.erase("key");
  const std::string dir = image.kernel.substr(0, image.kernel.rfind('/'));
  // A folder of one's own ($PV_GUEST_DIR) needs no manifest.
  if (const auto manifest = read_manifest(dir); manifest && manifest->is_object())
    for (const auto& [key, value] : manifest->items())
      if (key != "v" && !guest.contains(key)) guest[key] = value;
  guest["size_bytes"] = file_size(image.kernel).value_or(0) + file_size(image.initrd).value_or(0);
  return guest;
}

Result<json> clean(const Deadline& deadline) {
  TRY_ASSIGN(const Cache cache, locate_cache());
  json removed = json::array();
  uint64_t bytes = 0;
  struct stat st {};
  if (stat(cache.root.c_str(), &st) == 0) {
    TRY_ASSIGN(const LockFile lock, LockFile::acquire(cache.lock(), deadline, "the guest cache"));
    for (const std::string& name : list_dir(cache.images()))
      if (key_of(cache, name)) removed.push_back(name);
    // Only what is ours: the cache may have been pointed at a folder with other things in it.
    for (const std::string& dir : {cache.images(), cache.packages(), cache.apt()}) {
      bytes += tree_size(dir);
      remove_tree(dir);
      if (stat(dir.c_str(), &st) == 0) return fail(Code::system, "cannot remove " + dir);
    }
  }
  return json{{"removed", removed}, {"removed_bytes", bytes}};
}

}  // namespace pv::guest
