// SPDX-License-Identifier: MIT
// Processes of a scope, found by the PV_SCOPE of their environment.
#include <cstdlib>
#include <filesystem>
#include <set>
#include <unistd.h>

#include <climits>
#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/process.hpp"
#include "base/text.hpp"
#include "vm/scope/scope.hpp"

namespace pv::vm {
namespace {

constexpr size_t k_max_environ = 4 << 20;
constexpr uint64_t k_streams_grace_ns =
    10 * k_ns_per_s;         // a `scope run` below tears its own scope down
constexpr int k_rounds = 4;  // one that is ended may just have started another

// Our own servers see by themselves, or are told in their turn, that they are not needed any more.
constexpr const char* k_servers[] = {"pv-vm-sup", "pv-disk-server", "pv-vm-guard"};

std::string proc(pid_t pid, const char* file) {
  return fmt::format("/proc/{}/{}", pid, file);
}

// 0 when it has gone.
pid_t parent_of(pid_t pid) {
  const std::vector<std::string> fields = stat_fields(fmt::format("/proc/{}", pid));
  return fields.size() < 2 ? 0 : static_cast<pid_t>(std::strtol(fields[1].c_str(), nullptr, 10));
}

// Ourselves and those that started us.
std::set<pid_t> ancestors() {
  std::set<pid_t> pids;
  for (pid_t pid = getpid(); pid > 1 && pids.insert(pid).second;) pid = parent_of(pid);
  return pids;
}

bool is_of_scope(const RunDir& run, pid_t pid, const std::string& top) {
  const auto environment = read_file(proc(pid, "environ"), k_max_environ);
  if (!environment) return false;
  constexpr std::string_view k_scope = "PV_SCOPE=", k_run_dir = "PV_RUN_DIR=";
  std::string scope, run_dir;
  for (const std::string& entry : split(*environment, '\0')) {
    if (entry.rfind(k_scope, 0) == 0) scope = entry.substr(k_scope.size());
    if (entry.rfind(k_run_dir, 0) == 0) run_dir = entry.substr(k_run_dir.size());
  }
  if (scope.empty() || !is_within(scope, top)) return false;
  return run_dir.empty() ? !getenv("PV_RUN_DIR") : absolute_path(run_dir) == run.path();
}

bool is_server(pid_t pid) {
  const auto comm = read_file(proc(pid, "comm"), NAME_MAX);
  for (const char* server : k_servers)
    if (comm && *comm == std::string(server) + "\n") return true;
  return false;
}

bool is_command_of_ours(pid_t pid) {
  char path[PATH_MAX];
  const ssize_t n = readlink(proc(pid, "exe").c_str(), path, sizeof path);
  const std::string program(path, n > 0 ? static_cast<size_t>(n) : 0);
  return program.substr(program.rfind('/') + 1).rfind("pv-", 0) == 0;
}

void add_recorded(const json& state, std::set<pid_t>& pids) {
  if (!state.is_structured()) return;
  if (state.is_object() && find(state, "start_ticks")) pids.insert(process_from_json(state).pid);
  for (const json& value : state) add_recorded(value, pids);
}

// Those that stand behind an object: they end with it.
void add_servers(const RunDir& run, std::set<pid_t>& pids) {
  for (const char* kind : kinds_in_scope())
    for (const Object& object : run.list(kind, /*all_scopes=*/true))
      if (const auto state = object.load()) add_recorded(*state, pids);
}

std::vector<ProcessId> streams_of(const RunDir& run, const std::string& top, Ends ends) {
  std::set<pid_t> spared = ancestors();
  add_servers(run, spared);
  std::vector<ProcessId> found;
  std::error_code error;
  for (std::filesystem::directory_iterator it("/proc", error), end; !error && it != end;
       it.increment(error)) {
    const auto pid = static_cast<pid_t>(std::strtol(it->path().filename().c_str(), nullptr, 10));
    if (pid <= 0 || spared.count(pid) != 0 || !is_of_scope(run, pid, top)) continue;
    if (is_server(pid) || (ends == Ends::commands && !is_command_of_ours(pid))) continue;
    if (const auto id = identify(pid)) found.push_back(*id);
  }
  return found;
}

// What a server has started (QEMU, qemu-storage-daemon) has its environment, and ends with it.
bool belongs_to_server(pid_t pid) {
  pid = parent_of(pid);
  for (int depth = 0; pid > 1 && depth < k_rounds; ++depth, pid = parent_of(pid))
    if (is_server(pid)) return true;
  return false;
}

}  // namespace

size_t end_streams(const RunDir& run, const std::string& top, Ends ends) {
  size_t count = 0;
  for (int round = 0; round < k_rounds; ++round) {
    size_t ended = 0;
    std::vector<ProcessId> all;
    for (const ProcessId& id : streams_of(run, top, ends))
      if (!belongs_to_server(id.pid)) all.push_back(id);
    for (const ProcessId& id : all)
      if (is_alive(id)) ended += kill(id.pid, SIGTERM) == 0;
    for (const ProcessId& id : all) {
      kill(id.pid, SIGCONT);
      static_cast<void>(
          terminate(id, k_streams_grace_ns));  // one that cannot be ended keeps nothing of ours
    }
    count += ended;
    if (ended == 0) break;
  }
  return count;
}

}  // namespace pv::vm
