// SPDX-License-Identifier: MIT
#include "base/run_dir.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <fcntl.h>
#include <filesystem>
#include <set>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/clock.hpp"
#include "base/defer.hpp"
#include "base/json.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "base/units.hpp"

namespace pv {
namespace {

constexpr size_t k_max_state = 16 << 20;
constexpr uint64_t k_stray_grace_ns = k_ns_per_s;
// In the index an object without an owner lives under this name, which no owner can have.
constexpr std::string_view k_no_owner = "@";

std::string default_path() {
  if (const char* dir = getenv("PV_RUN_DIR"); dir && *dir) {
    std::string path = absolute_path(dir);
    while (path.size() > 1 && path.back() == '/') path.pop_back();  // lstat would follow a symlink
    return path;
  }
  if (const char* dir = getenv("XDG_RUNTIME_DIR"); dir && *dir)
    return absolute_path(dir) + "/provium";
  return fmt::format("/tmp/provium-{}", getuid());
}

Result<> check_private_dir(const std::string& path) {
  if (mkdir(path.c_str(), 0700) < 0 && errno != EEXIST)
    return fail_errno("cannot create run directory " + path, errno);
  struct stat st {};
  if (lstat(path.c_str(), &st) < 0) return fail_errno("run directory " + path, errno);
  const char* problem = nullptr;
  if (!S_ISDIR(st.st_mode))
    problem = "is not a directory";
  else if (st.st_uid != geteuid())
    problem = "belongs to another user";
  else if ((st.st_mode & 077) != 0)
    problem = "is open to other users (its mode must be 0700)";
  if (problem) return fail(Code::system, fmt::format("run directory {} {}", path, problem));
  return {};
}

std::string parent_scope(std::string_view scope) {
  const size_t slash = scope.rfind('/');
  return slash == std::string_view::npos ? "" : std::string(scope.substr(0, slash));
}

std::vector<std::string> entries(const std::string& dir) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator it(dir, error), end; !error && it != end;
       it.increment(error))
    names.push_back(it->path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

// While one lives, no signal that asks the process to end ends this thread's work midway.
class HeldSignals {
 public:
  HeldSignals() {
    sigset_t asking;
    sigemptyset(&asking);
    for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGQUIT}) sigaddset(&asking, number);
    pthread_sigmask(SIG_BLOCK, &asking, &before_);
  }
  ~HeldSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  HeldSignals(const HeldSignals&) = delete;
  HeldSignals& operator=(const HeldSignals&) = delete;

 private:
  sigset_t before_;
};

// One that is young may be about to get its name.
bool is_old(const std::string& path) {
  constexpr time_t k_young_s = 10;
  struct stat st {};
  if (lstat(path.c_str(), &st) < 0) return false;
  return st.st_mtime + k_young_s < static_cast<time_t>(system_clock().wall_ns() / k_ns_per_s);
}

// Files that write_file_atomic() has not come to rename.
void add_temporary(const std::string& dir, std::vector<RunDir::Stray>& strays) {
  for (const std::string& name : entries(dir))
    if (name.find(".tmp.") != std::string::npos && is_old(dir + "/" + name))
      strays.push_back({dir + "/" + name, "a temporary file that was left"});
}

}  // namespace

Result<json> Object::load() const {
  TRY_ASSIGN(const std::string text, read_file(path("state.json"), k_max_state));
  return parse_json(text);
}

Result<> Object::save(const json& state) const {
  return write_file_atomic(path("state.json"), to_line(state) + "\n");
}

Result<LockFile> Object::lock(const Deadline& deadline) const {
  return LockFile::acquire(path("lock"), deadline, kind + " '" + display() + "'");
}

bool Object::exists() const {
  return access(path("state.json").c_str(), F_OK) == 0;
}

Result<RunDir> RunDir::open(std::string_view scope) {
  for (const std::string& part : split(scope, '/')) TRY(check_name("scope", part));
  RunDir run(default_path(), std::string(scope));
  TRY(check_private_dir(run.path_));
  TRY(make_dir(run.path_ + "/obj"));
  TRY(make_dir(run.path_ + "/idx"));
  return run;
}

std::string RunDir::index_dir(std::string_view scope, std::string_view kind,
                              std::string_view owner) const {
  return fmt::format("{}/idx/{}/@{}/{}", path_, scope, kind, owner.empty() ? k_no_owner : owner);
}

std::optional<Object> RunDir::at(std::string_view scope, std::string_view kind,
                                 std::string_view owner, std::string_view name) const {
  const std::string link = fmt::format("{}/{}", index_dir(scope, kind, owner), name);
  char id[64];
  const ssize_t n = readlink(link.c_str(), id, sizeof id);
  if (n <= 0 || n >= static_cast<ssize_t>(sizeof id)) return std::nullopt;
  const std::string_view target(id, static_cast<size_t>(n));
  if (target.find('/') != std::string_view::npos) return std::nullopt;
  Object object{std::string(kind), std::string(scope), std::string(owner), std::string(name),
                fmt::format("{}/obj/{}", path_, target)};
  return object;
}

Result<Object> RunDir::create(std::string_view kind, std::string_view owner, std::string_view name,
                              const json* state) const {
  TRY(check_name(kind, name));
  if (auto taken = find(kind, owner, name)) {
    const char* where = taken->scope == scope_ ? "already exists" : "exists in an outer scope";
    return fail(Code::duplicate_name,
                fmt::format("{} '{}' {} ({})", kind, taken->display(), where, taken->scope));
  }
  Object object{std::string(kind), scope_, std::string(owner), std::string(name), ""};
  const HeldSignals held;  // a directory without a name would be left
  std::string id;
  while (object.dir.empty()) {
    id = fmt::format("{:08x}", static_cast<uint32_t>(fresh_seed()));
    const std::string dir = fmt::format("{}/obj/{}", path_, id);
    if (mkdir(dir.c_str(), 0700) == 0)
      object.dir = dir;
    else if (errno != EEXIST)
      return fail_errno("cannot create " + dir, errno);
  }
  Deferred undo([&] {
    std::error_code ignored;
    std::filesystem::remove_all(object.dir, ignored);
  });
  if (state) TRY(object.save(*state));
  const std::string index = index_dir(scope_, kind, owner);
  int err = ENOENT;  // also when a remove() takes the directory away between the two calls
  for (int round = 0; round < 100 && err == ENOENT; ++round) {
    err = 0;
    if (auto made = make_dirs(index); !made)  // EEXIST: it was there, and then it was not
      err = made.error().sys_errno == EEXIST ? ENOENT : made.error().sys_errno;
    else if (symlink(id.c_str(), fmt::format("{}/{}", index, name).c_str()) < 0)
      err = errno;
  }
  if (err == 0) {
    undo.cancel();
    return object;
  }
  if (err == EEXIST)
    return fail(Code::duplicate_name,
                fmt::format("{} '{}' already exists", kind, object.display()));
  return fail_errno("cannot register " + object.display(), err);
}

std::optional<Object> RunDir::find(std::string_view kind, std::string_view owner,
                                   std::string_view name) const {
  for (std::string scope = scope_; !scope.empty(); scope = parent_scope(scope))
    if (auto object = at(scope, kind, owner, name)) return object;
  return std::nullopt;
}

std::vector<Object> RunDir::find_any_owner(std::string_view kind, std::string_view name) const {
  std::vector<Object> found;
  for (std::string scope = scope_; !scope.empty() && found.empty(); scope = parent_scope(scope)) {
    std::vector<Object> all;
    list_scope(scope, kind, false, all);
    for (Object& object : all)
      if (object.name == name) found.push_back(std::move(object));
  }
  return found;
}

void RunDir::list_scope(const std::string& scope, std::string_view kind, bool recurse,
                        std::vector<Object>& out) const {
  const std::string dir = fmt::format("{}/idx/{}", path_, scope);
  const std::string kind_dir = fmt::format("@{}", kind);
  for (const std::string& entry : entries(dir)) {
    if (entry == kind_dir) {
      for (const std::string& name : entries(dir + "/" + entry)) {
        const std::string owner = name == k_no_owner ? "" : name;
        for (const std::string& id : entries(index_dir(scope, kind, owner)))
          if (auto object = at(scope, kind, owner, id)) out.push_back(std::move(*object));
      }
    } else if (recurse && entry[0] != '@') {
      list_scope(scope + "/" + entry, kind, recurse, out);
    }
  }
}

std::vector<Object> RunDir::list(std::string_view kind, bool all_scopes) const {
  std::vector<Object> out;
  if (all_scopes) {
    for (const std::string& root : entries(path_ + "/idx")) list_scope(root, kind, true, out);
  } else {
    for (std::string scope = scope_; !scope.empty(); scope = parent_scope(scope))
      list_scope(scope, kind, false, out);
  }
  return out;
}

void RunDir::remove(const Object& object) const {
  const std::string index = index_dir(object.scope, object.kind, object.owner);
  // Only its own name: a close that comes late must not forget the successor.
  const auto named = at(object.scope, object.kind, object.owner, object.name);
  if (named && named->dir == object.dir) unlink(fmt::format("{}/{}", index, object.name).c_str());
  remove_tree(object.dir);
  // Empty index directories go too, as far up as they are empty.
  const std::string top = path_ + "/idx";
  for (std::string dir = index; dir.size() > top.size() && rmdir(dir.c_str()) == 0;)
    dir.resize(dir.rfind('/'));
}

std::vector<RunDir::Stray> RunDir::strays() const {
  std::vector<Stray> strays;
  std::set<std::string> named;
  std::error_code error;
  for (std::filesystem::recursive_directory_iterator it(path_ + "/idx", error), end;
       !error && it != end; it.increment(error)) {
    if (!it->is_symlink(error)) continue;
    const std::string id = std::filesystem::read_symlink(*it, error).string();
    named.insert(id);
    if (access(fmt::format("{}/obj/{}", path_, id).c_str(), F_OK) != 0)
      strays.push_back({it->path().string(), "a name without an object"});
  }
  if (error) return strays;
  for (const std::string& id : entries(path_ + "/obj")) {
    const std::string dir = path_ + "/obj/" + id;
    if (named.count(id) == 0 && is_old(dir)) strays.push_back({dir, "an object without a name"});
    if (named.count(id) != 0) add_temporary(dir, strays);
  }
  add_temporary(path_, strays);
  return strays;
}

size_t RunDir::sweep() const {
  const std::vector<Stray> found = strays();
  for (const Stray& stray : found) {
    if (const auto text = read_file(stray.path + "/state.json", k_max_state))
      if (const auto state = parse_json(*text))
        static_cast<void>(end_recorded(*state, k_stray_grace_ns));  // deleted all the same
    if (unlink(stray.path.c_str()) < 0) remove_tree(stray.path);
  }
  return found.size();
}

Result<bool> end_recorded(const json& state, uint64_t grace_ns) {
  bool killed = false;
  if (!state.is_object()) return killed;
  if (const ProcessId id = process_from_json(state); id.pid > 0 && id.start_ticks > 0) {
    TRY_ASSIGN(killed, terminate(id, grace_ns));
  }
  for (const json& value : state) {
    TRY_ASSIGN(const bool inner, end_recorded(value, grace_ns));
    killed = killed || inner;
  }
  return killed;
}

json process_to_json(const ProcessId& id) {
  return {{"pid", id.pid}, {"start_ticks", id.start_ticks}};
}

ProcessId process_from_json(const json& state) {
  return {static_cast<pid_t>(get_u64(state, "pid")), get_u64(state, "start_ticks")};
}

}  // namespace pv
