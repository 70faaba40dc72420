// SPDX-License-Identifier: MIT
#include "vm/scope/scope.hpp"

#include <algorithm>
#include <map>
#include <sys/stat.h>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "serve/disk_object.hpp"
#include "vm/boot.hpp"
#include "vm/lan/lan.hpp"
#include "vm/vm_object.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_scope_grace_ns = 2 * k_ns_per_s;
constexpr const char* k_kind = "scope";

Result<> end_vm(const RunDir& run, const Object& vm, const Deadline& deadline) {
  TRY(close_vm(run, vm, deadline));
  return {};
}

Result<> end_disk(const RunDir& run, const Object& disk, const Deadline&) {
  return serve::close_disk(run, disk);
}

Result<> end_lan(const RunDir& run, const Object& lan, const Deadline& deadline) {
  return lan::close_lan(run, lan, deadline);
}

// What nobody knows more of: its recorded processes and its files.
Result<> end_object(const RunDir& run, const Object& object, const Deadline&) {
  const auto ended = end_recorded(object.load().value_or(json::object()), k_scope_grace_ns);
  run.remove(object);
  if (!ended) return fail(ended.error());
  return {};
}

// In the order of the teardown. A further kind is one more line.
struct Kind {
  const char* kind;
  const char* key;  // in the document
  Result<> (*end)(const RunDir& run, const Object& object, const Deadline& deadline);
};
constexpr Kind k_kinds[] = {{"vm", "vms", end_vm},
                            {"disk", "disks", end_disk},
                            {"lan", "lans", end_lan},
                            {"snap", "snaps", end_object}};

bool runner_lives(const Object& scope) {
  const auto state = scope.load();
  if (!state) return false;
  const json* runner = find(*state, "runner");
  return runner && runner->is_object() && is_alive(process_from_json(*runner));
}

std::string vm_problem(const Object& vm) {
  const auto state = vm.load();
  if (!state) return "it was never finished";
  const json* supervisor = find(*state, "supervisor");
  if (actual_state(vm, *state) != "dead" || !supervisor) return "";
  return is_alive(process_from_json(*supervisor)) ? "" : "its supervisor has gone";
}

std::string disk_problem(const RunDir& run, const Object& disk) {
  const auto state = disk.load();
  if (!state) return "it was never finished";
  const bool serves = find(*state, "start_ticks") != nullptr;
  if (serves && !is_alive(process_from_json(*state))) return "its server has gone";
  if (disk.owner.empty()) return "";
  for (const Object& vm : run.list("vm", /*all_scopes=*/true))
    if (vm.name == disk.owner && vm.scope == disk.scope) return "";
  return "its VM has gone";
}

// One without a state that is young: a command is making it right now.
bool is_in_the_making(const Object& object) {
  constexpr time_t k_young_s = 10;
  struct stat st {};
  if (object.exists() || stat(object.dir.c_str(), &st) < 0) return false;
  return st.st_mtime + k_young_s > static_cast<time_t>(system_clock().wall_ns() / k_ns_per_s);
}

struct Orphan {
  Object object;
  const Kind* kind;  // nullptr: a scope's own
  std::string why;
};

std::vector<Orphan> find_orphans(const RunDir& run, std::string_view top) {
  std::vector<Orphan> found;
  for (const Kind& kind : k_kinds)
    for (const Object& object : objects_within(run, kind.kind, top)) {
      if (is_in_the_making(object)) continue;
      std::string why;
      if (kind.end == end_vm) why = vm_problem(object);
      if (kind.end == end_disk) why = disk_problem(run, object);
      if (!why.empty()) found.push_back({object, &kind, why});
    }
  for (const Object& scope : objects_within(run, k_kind, top))
    if (!runner_lives(scope)) found.push_back({scope, nullptr, "its command has gone"});
  return found;
}

}  // namespace

Result<std::string> scope_path(const RunDir& run, std::string_view name) {
  for (const std::string& part : split(name, '/')) TRY(check_name("scope", part));
  if (run.scope() == "default") return std::string(name);
  return run.scope() + "/" + std::string(name);
}

bool is_within(std::string_view scope, std::string_view top) {
  if (top.empty() || scope == top) return true;
  return scope.size() > top.size() && scope.substr(0, top.size()) == top &&
         scope[top.size()] == '/';
}

std::vector<Object> objects_within(const RunDir& run, std::string_view kind, std::string_view top) {
  std::vector<Object> found;
  for (Object& object : run.list(kind, /*all_scopes=*/true))
    if (is_within(object.scope, top)) found.push_back(std::move(object));
  return found;
}

std::vector<const char*> kinds_in_scope() {
  std::vector<const char*> kinds;
  for (const Kind& kind : k_kinds) kinds.push_back(kind.kind);
  return kinds;
}

Result<size_t> close_orphans(const RunDir& run, const Deadline& deadline) {
  size_t count = 0;
  Result<> first;
  for (const Orphan& orphan : find_orphans(run, run.scope())) {
    if (orphan.object.scope != run.scope()) continue;
    ++count;
    const auto end = orphan.kind ? orphan.kind->end : end_object;
    if (auto ended = end(run, orphan.object, deadline); !ended && first) first = ended;
  }
  count += run.sweep();
  TRY(first);
  return count;
}

Teardown tear_down(const RunDir& run, const std::string& top, Ends ends, const Deadline& deadline) {
  std::optional<Error> first;
  const size_t orphaned = find_orphans(run, top).size();
  std::map<std::string, size_t> before;
  json closed = {{"streams", end_streams(run, top, ends)}};
  for (const Kind& kind : k_kinds) before[kind.key] = objects_within(run, kind.kind, top).size();
  for (const Kind& kind : k_kinds)
    for (const Object& object : objects_within(run, kind.kind, top))
      if (auto ended = kind.end(run, object, deadline); !ended && !first) first = ended.error();
  for (const Kind& kind : k_kinds) {
    const size_t left = objects_within(run, kind.kind, top).size();
    closed[kind.key] = before[kind.key] - std::min(left, before[kind.key]);
  }
  for (const Object& scope : objects_within(run, k_kind, top))
    if (!runner_lives(scope)) static_cast<void>(end_object(run, scope, deadline));
  closed["orphans"] = orphaned + run.sweep();
  return {{{"name", top}, {"closed", closed}}, first};
}

std::vector<json> scope_documents(const RunDir& run, const std::string& top) {
  std::map<std::string, json> scopes;
  const auto entry = [&](const std::string& name) -> json& {
    json& scope = scopes[name];
    if (!scope.is_null()) return scope;
    scope = {{"name", name}};
    for (const Kind& kind : k_kinds) scope[kind.key] = 0;
    scope["runner_pid"] = nullptr;
    scope["orphans"] = json::array();
    return scope;
  };
  for (const Kind& kind : k_kinds)
    for (const Object& object : objects_within(run, kind.kind, top)) {
      json& count = entry(object.scope)[kind.key];
      count = count.get<size_t>() + 1;
    }
  for (const Object& scope : objects_within(run, k_kind, top)) {
    json& document = entry(scope.scope);
    if (runner_lives(scope)) document["runner_pid"] = get_u64((*scope.load())["runner"], "pid");
  }
  for (const Orphan& orphan : find_orphans(run, top))
    entry(orphan.object.scope)["orphans"].push_back(
        fmt::format("{} {}: {}", orphan.object.kind, orphan.object.display(), orphan.why));
  std::vector<json> documents;
  for (auto& [name, scope] : scopes) documents.push_back(std::move(scope));
  const std::vector<RunDir::Stray> strays =
      top.empty() ? run.strays() : std::vector<RunDir::Stray>();
  if (strays.empty()) return documents;
  json nowhere = {{"name", nullptr}, {"orphans", json::array()}};
  for (const RunDir::Stray& stray : strays)
    nowhere["orphans"].push_back(fmt::format("{}: {}", stray.path, stray.why));
  documents.push_back(std::move(nowhere));
  return documents;
}

}  // namespace pv::vm
