// SPDX-License-Identifier: MIT
#include "guest/cache.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"

namespace pv::guest {
namespace {

constexpr std::string_view k_temp_prefix = ".tmp-";

std::string env(const char* name) {
  const char* value = getenv(name);
  return value ? value : "";
}

}  // namespace

Result<Cache> locate_cache() {
  if (const std::string own = env("PV_CACHE_DIR"); !own.empty()) return Cache{absolute_path(own)};
  // The XDG base directory rules: a relative path is to be ignored.
  if (const std::string xdg = env("XDG_CACHE_HOME"); !xdg.empty() && xdg[0] == '/')
    return Cache{xdg + "/provium"};
  std::string home = env("HOME");
  if (home.empty()) {
    const passwd* user = getpwuid(geteuid());
    if (user && user->pw_dir) home = user->pw_dir;
  }
  if (home.empty() || home[0] != '/')
    return fail(Code::unavailable, "no home directory for the cache; set PV_CACHE_DIR");
  return Cache{home + "/.cache/provium"};
}

Result<Cache> open_cache() {
  TRY_ASSIGN(Cache cache, locate_cache());
  TRY(make_dirs(cache.root));
  struct stat st {};
  if (stat(cache.root.c_str(), &st) < 0) return fail_errno("cannot look at " + cache.root, errno);
  if (st.st_uid != geteuid())
    return fail(Error(Code::system,
                      fmt::format("cache {} belongs to another user; set PV_CACHE_DIR", cache.root),
                      EPERM));
  TRY(make_dir(cache.packages()));
  TRY(make_dir(cache.images()));
  return cache;
}

std::vector<std::string> list_dir(const std::string& dir) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator each(dir, error), end; !error && each != end;
       each.increment(error))
    names.push_back(each->path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

void remove_leftovers(const std::string& dir) {
  for (const std::string& name : list_dir(dir))
    if (name.compare(0, k_temp_prefix.size(), k_temp_prefix) == 0) remove_tree(dir + "/" + name);
}

Result<std::string> make_temp_dir(const std::string& dir) {
  std::string path = fmt::format("{}/{}XXXXXX", dir, k_temp_prefix);
  if (!mkdtemp(path.data())) return fail_errno("cannot create a folder in " + dir, errno);
  return path;
}

}  // namespace pv::guest
