// SPDX-License-Identifier: MIT
#include "snap/store.hpp"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <glob.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/fd.hpp"
#include "base/file.hpp"
#include "base/json.hpp"
#include "base/process.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "vm/vm_object.hpp"

namespace pv::snap {
namespace {

constexpr int k_max_number = 100'000;
constexpr int k_store_max_depth = 4096;  // of snapshots on snapshots

bool is_directory(const std::string& path) {
  struct stat st {};
  return stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
}

bool is_path(const std::string& word) {
  return word.find('/') != std::string::npos || is_directory(word);
}

// Enough of a snapshot that deleting it takes nothing else away.
bool looks_like_snapshot(const std::string& dir) {
  const auto there = [&](const char* file) {
    return access((dir + "/" + file).c_str(), F_OK) == 0;
  };
  return there(k_manifest_file) || (there(k_ram_file) && there(k_state_file));
}

std::optional<Object> object_of(const RunDir& run, const std::string& dir) {
  for (Object& object : run.list(k_snap_kind, /*all_scopes=*/true))
    if (object.path(k_bundle_dir) == dir) return std::move(object);
  return std::nullopt;
}

// "1234-0a1b2c3d": whether it is the temporary of a process that has gone.
bool is_abandoned(const std::string& path, const char* suffix) {
  const auto pid = static_cast<pid_t>(std::strtol(suffix, nullptr, 10));
  if (pid <= 0 || identify(pid)) return false;
  // Another one's, which looks alive to nobody here, has its lock.
  const Fd lock(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  return lock && flock(lock.get(), LOCK_EX | LOCK_NB) == 0;
}

// Whether what runs on `dir` needs `wanted` too, as a parent of a parent.
bool stands_on(std::string dir, const std::string& wanted) {
  for (int depth = 0; depth < k_store_max_depth && !dir.empty(); ++depth) {
    if (dir == wanted) return true;
    const auto bundle = open_bundle(dir);
    dir = bundle ? get_string(bundle->manifest, "parent") : "";
  }
  return false;
}

}  // namespace

bool remove_leftovers(const std::string& dir) {
  glob_t found{};
  std::string pattern;
  for (const char c : dir + k_temporary_suffix)
    pattern += strchr("*?[\\", c) ? std::string("\\") + c : std::string(1, c);
  const size_t prefix = dir.size() + strlen(k_temporary_suffix);
  bool live = false;
  if (glob((pattern + "*-????????").c_str(), GLOB_NOSORT, nullptr, &found) == 0)
    for (size_t i = 0; i < found.gl_pathc; ++i) {
      const std::string path = found.gl_pathv[i];
      const bool abandoned = is_abandoned(path, path.c_str() + prefix);
      live = live || !abandoned;
      if (abandoned) remove_tree(path);
    }
  globfree(&found);
  return live;
}

void sweep_half_taken(const RunDir& run) {
  for (const Object& object : run.list(k_snap_kind)) {
    const auto state = object.load();
    if (!state || is_directory(object.path(k_bundle_dir))) continue;
    const auto taker = static_cast<pid_t>(get_u64(*state, "taker"));
    if (!identify(taker) && !remove_leftovers(object.path(k_bundle_dir))) run.remove(object);
  }
}

Result<std::string> find_snapshot(const RunDir& run, const std::string& word) {
  if (word.empty()) return fail(Code::usage, "no snapshot is named");
  if (is_path(word)) return absolute_path(word);
  TRY(check_name("snapshot", word));
  if (const auto object = run.find(k_snap_kind, "", word)) return object->path(k_bundle_dir);
  return fail(vm::no_such_object(Code::no_such_snapshot, run, k_snap_kind, "snapshot", word));
}

Result<Object> new_place(const RunDir& run, const std::string& vm) {
  sweep_half_taken(run);
  for (int number = 1; number < k_max_number; ++number) {
    auto made = run.create(k_snap_kind, "", fmt::format("{}-{}", vm.substr(0, 58), number));
    if (!made && made.error().code == Code::duplicate_name) continue;
    if (!made) return made;
    TRY(made->save({{"state", "taken"}, {"taker", getpid()}}));
    return made;
  }
  return fail(Code::unsupported, "too many snapshots of one VM");
}

std::vector<std::string> users_of(const RunDir& run, const std::string& dir) {
  std::vector<std::string> users;
  for (const Object& vm : run.list("vm", /*all_scopes=*/true)) {
    const auto state = vm.load();
    if (state && vm::is_running(vm::actual_state(vm, *state)) &&
        stands_on(get_string(*state, "restored_from"), dir))
      users.push_back(vm.scope + "/" + vm.name);
  }
  return users;
}

Result<Deletion> delete_snapshot(const RunDir& run, const std::string& word, bool force) {
  sweep_half_taken(run);
  auto dir = find_snapshot(run, word);
  if (!dir && dir.error().code == Code::no_such_snapshot) return Deletion{word, false};
  if (!dir) return fail(dir.error());
  struct stat st {};
  if (lstat(dir->c_str(), &st) < 0) return Deletion{*dir, false};
  if (!S_ISDIR(st.st_mode) || !looks_like_snapshot(*dir))
    return fail(Code::invalid, fmt::format("{} is no snapshot; it is left alone", *dir));
  const Fd lock(open(dir->c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const bool locked = lock && flock(lock.get(), LOCK_EX | LOCK_NB) == 0;
  const std::vector<std::string> users = force ? std::vector<std::string>() : users_of(run, *dir);
  if (!force && (!locked || !users.empty())) {
    return fail(Error(Code::in_use,
                      fmt::format("snapshot {} is in use{}{} (--force deletes it all the same)",
                                  *dir, users.empty() ? "" : " by ", join(users, " ")))
                    .with("vms", users));
  }
  if (const auto object = object_of(run, *dir)) {
    run.remove(*object);
    return Deletion{*dir, true};
  }
  // It is gone at once, or not at all.
  const std::string doomed = fmt::format("{}.del-{:08x}", *dir, fresh_seed() & 0xffffffff);
  if (rename(dir->c_str(), doomed.c_str()) < 0) return fail_errno("cannot delete " + *dir, errno);
  remove_tree(doomed);
  return Deletion{*dir, true};
}

}  // namespace pv::snap
