// SPDX-License-Identifier: MIT
#include "snap/fixture.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/defer.hpp"
#include "base/file.hpp"
#include "base/hash.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "base/time_text.hpp"
#include "base/units.hpp"
#include "base/version.hpp"
#include "snap/restore.hpp"
#include "vm/machine.hpp"
#include "vm/profile/profile.hpp"

namespace pv::snap {
namespace {

constexpr uint64_t k_default_max = uint64_t{20} << 30;
constexpr size_t k_key_digits = 16;
constexpr size_t k_max_note = 4096;

Result<std::string> cache_root() {
  std::string root;
  if (const char* dir = getenv("PV_FIXTURE_DIR"); dir && *dir) {
    root = absolute_path(dir);
  } else if (const char* base = getenv("PV_CACHE_DIR"); base && *base) {
    root = absolute_path(base) + "/fixtures";
  } else if (const char* cache = getenv("XDG_CACHE_HOME"); cache && *cache == '/') {
    root = std::string(cache) + "/provium/fixtures";
  } else if (const char* home = getenv("HOME"); home && *home == '/') {
    root = std::string(home) + "/.cache/provium/fixtures";
  } else {
    return fail(Code::system, "no place for fixtures: neither PV_FIXTURE_DIR nor HOME is set");
  }
  TRY(make_dirs(root));
  TRY(make_dir(root + "/content"));
  return root;
}

std::string short_hash(std::string_view text) {
  RunningHash hash;
  hash.add(text);
  return hash.text().substr(hash.text().find(':') + 1);
}

// Of a file's content, from a note where the file is the one that the note was made of.
Result<std::string> content_hash(const std::string& root, const std::string& path) {
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat st {};
  if (!fd || fstat(fd.get(), &st) < 0) return fail_errno("cannot open " + path, errno);
  if (!S_ISREG(st.st_mode)) return fail(Code::invalid, path + " is no regular file");
  const std::string what =
      fmt::format("{} {} {} {}.{:09} {}.{:09}", path, st.st_ino, st.st_size, st.st_mtim.tv_sec,
                  st.st_mtim.tv_nsec, st.st_ctim.tv_sec, st.st_ctim.tv_nsec);
  const std::string note = root + "/content/" + short_hash(path);
  const auto known = read_file(note, k_max_note);
  if (known && known->rfind(what + "\n", 0) == 0) return known->substr(what.size() + 1);
  TRY_ASSIGN(std::string hash, hash_of_file(fd.get(), path));
  if (what.size() < k_max_note / 2) static_cast<void>(write_file_atomic(note, what + "\n" + hash));
  return hash;
}

// The machine that the builder boots, as far as a profile says it.
Result<json> profile_part(const std::string& root, const Fixture& fixture) {
  const bool named = !fixture.profile.empty();
  std::string config = fixture.config_file;
  if (named && fixture.profile != vm::k_tiny) {
    TRY_ASSIGN(config, vm::find_config(fixture.config_file));
  }
  const auto profile = vm::load_profile(named ? fixture.profile : vm::k_tiny, config);
  if (!profile && named) return fail(profile.error());
  if (!profile) return json();
  json part = {{"name", profile->name},       {"cmdline", profile->cmdline},
               {"machine", profile->machine}, {"memory", profile->memory_bytes},
               {"cpus", profile->cpus},       {"qemu_args", profile->qemu_args}};
  for (const std::string& file : {profile->kernel, profile->initrd}) {
    if (file.empty()) continue;
    TRY_ASSIGN(const std::string hash, content_hash(root, file));
    part["content"].push_back(hash);
  }
  for (const vm::ProfileDisk& disk : profile->disks) {
    TRY_ASSIGN(const std::string hash, content_hash(root, disk.image));
    part["content"].push_back(hash);
  }
  return part;
}

bool is_regular(const std::string& path) {
  struct stat st {};
  return stat(path.c_str(), &st) == 0 && S_ISREG(st.st_mode);
}

// "NAME-KEY" taken apart; false for what is none.
bool split_entry(const std::string& entry, std::string& name, std::string& key) {
  if (entry.size() < k_key_digits + 2) return false;
  const size_t dash = entry.size() - k_key_digits - 1;
  name = entry.substr(0, dash);
  key = entry.substr(dash + 1);
  const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  return entry[dash] == '-' && std::all_of(key.begin(), key.end(), is_hex);
}

Result<Bundle> usable(const RunDir& run, const std::string& dir) {
  TRY_ASSIGN(Bundle bundle, open_bundle(dir));
  TRY(check(run, bundle, false));
  return bundle;
}

void mark_used(const std::string& dir) {
  utimensat(AT_FDCWD, (dir + ".lock").c_str(), nullptr, 0);
}

// Nanoseconds since 1970.
uint64_t last_used(const std::string& dir) {
  struct stat st {};
  if (stat((dir + ".lock").c_str(), &st) < 0) return 0;
  return static_cast<uint64_t>(st.st_mtim.tv_sec) * k_ns_per_s +
         static_cast<uint64_t>(st.st_mtim.tv_nsec);
}

}  // namespace

Result<FixturePlace> find_fixture(const RunDir& run, const Fixture& fixture) {
  TRY(check_name("fixture", fixture.name));
  FixturePlace place;
  TRY_ASSIGN(place.root, cache_root());
  TRY_ASSIGN(const vm::Qemu qemu, vm::find_qemu(run));
  TRY_ASSIGN(json profile, profile_part(place.root, fixture));
  json key = {{"format", k_format},         {"tools", k_version},
              {"qemu", qemu.version},       {"keys", fixture.keys},
              {"builder", fixture.builder}, {"profile", std::move(profile)}};
  for (const std::string& word : fixture.builder) {
    if (!is_regular(word)) continue;  // a script, or what it reads
    TRY_ASSIGN(const std::string hash, content_hash(place.root, absolute_path(word)));
    key["scripts"].push_back(hash);
  }
  for (const std::string& file : fixture.files) {
    TRY_ASSIGN(const std::string hash, content_hash(place.root, absolute_path(file)));
    key["files"].push_back({file, hash});
  }
  place.key = short_hash(to_line(key));
  place.dir = fmt::format("{}/{}-{}", place.root, fixture.name, place.key);
  return place;
}

Result<Fetched> fetch_fixture(const RunDir& run, const FixturePlace& place,
                              const std::function<Result<>(const std::string& dir)>& build,
                              const Deadline& deadline) {
  if (auto bundle = usable(run, place.dir)) {
    mark_used(place.dir);
    return Fetched{std::move(*bundle), true};
  }
  TRY_ASSIGN(const LockFile lock,
             LockFile::acquire(place.dir + ".lock", deadline, "the fixture " + place.dir));
  // Somebody else may have built it while we waited.
  if (auto bundle = usable(run, place.dir)) {
    mark_used(place.dir);
    return Fetched{std::move(*bundle), true};
  }
  remove_tree(place.dir);
  const std::string building = place.dir + ".new";
  remove_tree(building);  // of one who was killed
  Deferred clean([&] { remove_tree(building); });
  TRY(build(building));
  TRY(usable(run, building));
  if (rename(building.c_str(), place.dir.c_str()) < 0)
    return fail_errno("cannot create " + place.dir, errno);
  clean.cancel();
  mark_used(place.dir);
  TRY_ASSIGN(Bundle bundle, open_bundle(place.dir));
  return Fetched{std::move(bundle), false};
}

Result<std::vector<json>> list_fixtures(const RunDir& run) {
  TRY_ASSIGN(const std::string root, cache_root());
  std::vector<std::pair<uint64_t, json>> found;
  DIR* dir = opendir(root.c_str());
  if (!dir) return fail_errno("cannot read " + root, errno);
  DEFER(closedir(dir));
  while (const dirent* entry = readdir(dir)) {
    std::string name, key;
    if (!split_entry(entry->d_name, name, key)) continue;
    const std::string path = root + "/" + entry->d_name;
    const uint64_t used_ns = last_used(path);
    json snap = {{"fixture", name}, {"key", key}, {"used", utc_seconds(used_ns / k_ns_per_s)}};
    const auto bundle = open_bundle(path);
    if (bundle) snap.update(snap_document(*bundle));
    const auto good = bundle ? check(run, *bundle, false) : fail(bundle.error());
    if (!good) snap.update({{"path", path}, {"problem", good.error().message}});
    if (!bundle) snap["size_bytes"] = disk_usage(path);
    found.emplace_back(used_ns, std::move(snap));
  }
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<json> entries;
  for (auto& [used_ns, snap] : found) entries.push_back(std::move(snap));
  return entries;
}

Result<> delete_fixture(const json& entry) {
  const std::string dir = get_string(entry, "path");
  const Fd lock(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (lock && flock(lock.get(), LOCK_EX | LOCK_NB) < 0)
    return fail(Code::in_use, fmt::format("fixture {} is in use", dir));
  remove_tree(dir);
  unlink((dir + ".lock").c_str());
  return {};
}

Result<uint64_t> max_fixture_bytes() {
  const char* text = getenv("PV_FIXTURE_MAX");
  if (!text || !*text) return k_default_max;
  auto most = parse_size(text);
  if (!most) return fail(Code::usage, "PV_FIXTURE_MAX: " + most.error().message);
  return most;
}

Result<> trim_fixtures(const RunDir& run) {
  TRY_ASSIGN(const uint64_t most, max_fixture_bytes());
  TRY_ASSIGN(const std::vector<json> entries, list_fixtures(run));
  uint64_t total = 0;
  for (const json& entry : entries) total += get_u64(entry, "size_bytes");
  // The last one is the one that was asked for.
  for (size_t i = 0; i + 1 < entries.size() && total > most; ++i)
    if (delete_fixture(entries[i])) total -= get_u64(entries[i], "size_bytes");
  return {};
}

}  // namespace pv::snap
