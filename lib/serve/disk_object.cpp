// SPDX-License-Identifier: MIT
#include "serve/disk_object.hpp"

#include <algorithm>
#include <unistd.h>

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "serve/keeper.hpp"

namespace pv::serve {
namespace {

constexpr size_t k_max_note = 4096;
constexpr uint64_t k_save_ns = 10 * k_ns_per_s;

bool has_cache(const json& state) {
  const json* layers = find(state, "layers");
  if (!layers || !layers->is_array()) return false;
  return std::any_of(layers->begin(), layers->end(), [](const json& layer) {
    return layer.is_string() && split(layer.get<std::string>(), ':').front() == "cache";
  });
}

std::string take_note(const Object& disk, const char* name) {
  auto note = read_file(disk.path(name), k_max_note);
  unlink(disk.path(name).c_str());
  return note.value_or("");
}

Error no_such_disk(const RunDir& run, std::string_view name) {
  std::vector<std::string> known;
  for (const Object& disk : run.list("disk")) known.push_back(disk.display());
  return Error(Code::no_such_disk, fmt::format("no disk '{}' (disks: {})", name,
                                               known.empty() ? "none" : join(known, " ")))
      .with("valid", known);
}

}  // namespace

Result<Object> find_disk(const RunDir& run, std::string_view name) {
  const size_t slash = name.find('/');
  if (slash != std::string_view::npos) {
    const std::string_view owner = name.substr(0, slash), id = name.substr(slash + 1);
    TRY(check_name("vm", owner));
    TRY(check_name("disk", id));
    if (auto disk = run.find("disk", owner, id)) return *disk;
    return fail(no_such_disk(run, name));
  }
  TRY(check_name("disk", name));
  const std::vector<Object> found = run.find_any_owner("disk", name);
  if (found.size() == 1) return found.front();
  if (found.empty()) return fail(no_such_disk(run, name));
  std::vector<std::string> choices;
  for (const Object& disk : found) choices.push_back(disk.display());
  return fail(
      Error(Code::usage, fmt::format("'{}' is not clear: there are {}", name, join(choices, ", ")))
          .with("valid", choices));
}

std::vector<Object> disks_of_vm(const RunDir& run, const Object& vm) {
  std::vector<Object> disks;
  for (Object& disk : run.list("disk", /*all_scopes=*/true))
    if (disk.owner == vm.name && disk.scope == vm.scope) disks.push_back(std::move(disk));
  return disks;
}

Result<json> disk_document(const Object& disk) {
  auto state = disk.load();
  if (!state) return fail(Code::no_such_disk, fmt::format("disk '{}' is gone", disk.display()));
  const std::string said = get_string(*state, "state");
  const bool serves = said == "attached" || said == "serving";
  if (serves && !is_alive(process_from_json(*state))) (*state)["state"] = "dead";
  state->erase("start_ticks");
  state->erase("image_path");
  return state;
}

Result<> save_keys(const Object& disk, const json& changed) {
  TRY_ASSIGN(const LockFile lock,
             LockFile::acquire(disk.path("state.lock"), Deadline::in_ns(k_save_ns),
                               fmt::format("the state of disk '{}'", disk.name)));
  TRY_ASSIGN(json state, disk.load());
  state.update(changed);
  return disk.save(state);
}

Result<LastWords> end_server(const Object& disk, uint64_t grace_ns) {
  // Whoever may want to start the server again sees that it is not wanted any more.
  static_cast<void>(write_file_atomic(disk.path(k_closing_file), "", 0600));
  grace_ns = std::max(grace_ns, k_end_grace_ns);
  const auto state = disk.load();
  const auto text = read_file(disk.path(k_starting_file), k_max_note);
  const json none = json::object();
  // The second is the server that has not come up, and is waited for by nobody any more; or its
  // keeper, which may have started another one the moment before: it passes the signal on, and ends
  // with it.
  const ProcessId ours[] = {process_from_json(state.value_or(none)),
                            process_from_json(parse_json(text.value_or("")).value_or(none))};
  bool killed = false;
  for (const ProcessId& process : ours) {
    TRY_ASSIGN(const bool forced, terminate(process, grace_ns));
    killed = killed || forced;
  }
  LastWords words;
  words.flush = take_note(disk, k_lost_file);
  words.broken = take_note(disk, k_broken_file);
  if (words.flush.empty() && killed && state && has_cache(*state)) words.flush = k_flush_late;
  return words;
}

Result<> LastWords::told(const Object& disk, std::string_view how) const {
  if (!flush.empty())
    return fail(Code::io, fmt::format("disk '{}' is {}, but its last flush {}: what its cache "
                                      "still held is lost",
                                      disk.name, how, flush));
  if (broken.empty()) return {};
  return fail(Code::io, fmt::format("disk '{}' is {}, but {}", disk.name, how, broken));
}

Result<> close_disk(const RunDir& run, const Object& disk, uint64_t grace_ns) {
  TRY_ASSIGN(const LastWords words, end_server(disk, grace_ns));
  run.remove(disk);
  return words.told(disk, "closed");
}

}  // namespace pv::serve
