// SPDX-License-Identifier: MIT
#include "snap/store.hpp"

#include <cstdio>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/fd.hpp"
#include "base/file.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "vm/vm_object.hpp"

namespace pv::snap {
namespace {

constexpr const char* k_kind = "snap";
constexpr int k_max_number = 100'000;

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
  for (Object& object : run.list(k_kind, /*all_scopes=*/true))
    if (object.path(k_bundle_dir) == dir) return std::move(object);
  return std::nullopt;
}

}  // namespace

Result<std::string> find_snapshot(const RunDir& run, const std::string& word) {
  if (word.empty()) return fail(Code::usage, "no snapshot is named");
  if (is_path(word)) return absolute_path(word);
  TRY(check_name("snapshot", word));
  if (const auto object = run.find(k_kind, "", word)) return object->path(k_bundle_dir);
  return fail(vm::no_such_object(Code::no_such_snapshot, run, k_kind, "snapshot", word));
}

Result<Object> new_place(const RunDir& run, const std::string& vm) {
  for (int number = 1; number < k_max_number; ++number) {
    auto made = run.create(k_kind, "", fmt::format("{}-{}", vm.substr(0, 58), number));
    if (!made && made.error().code == Code::duplicate_name) continue;
    if (!made) return made;
    TRY(made->save({{"state", "taken"}}));
    return made;
  }
  return fail(Code::unsupported, "too many snapshots of one VM");
}

std::vector<std::string> users_of(const RunDir& run, const std::string& dir) {
  std::vector<std::string> users;
  for (const Object& vm : run.list("vm", /*all_scopes=*/true)) {
    const auto state = vm.load();
    if (state && get_string(*state, "restored_from") == dir &&
        vm::is_running(vm::actual_state(vm, *state)))
      users.push_back(vm.scope + "/" + vm.name);
  }
  return users;
}

Result<Deletion> delete_snapshot(const RunDir& run, const std::string& word, bool force) {
  auto dir = find_snapshot(run, word);
  if (!dir && dir.error().code == Code::no_such_snapshot) return Deletion{word, false};
  if (!dir) return fail(dir.error());
  struct stat st {};
  if (lstat(dir->c_str(), &st) < 0) return Deletion{*dir, false};
  if (!S_ISDIR(st.st_mode) || !looks_like_snapshot(*dir))
    return fail(Code::invalid, fmt::format("{} is no snapshot; it is left alone", *dir));
  const Fd lock(open(dir->c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!force && (!lock || flock(lock.get(), LOCK_EX | LOCK_NB) < 0)) {
    const std::vector<std::string> users = users_of(run, *dir);
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
