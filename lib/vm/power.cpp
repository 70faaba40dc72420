// SPDX-License-Identifier: MIT
#include "vm/power.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/rng.hpp"
#include "base/text.hpp"
#include "serve/client.hpp"
#include "serve/disk_object.hpp"
#include "vm/argv.hpp"
#include "vm/client.hpp"
#include "vm/vm_object.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_reply_slack_ms = 500;  // the server's word on what is late comes before ours

// A disk and the conversation in which it is frozen; when that ends too early, it thaws.
struct Victim {
  Object disk;
  serve::DiskClient client;
  json request;
};

// Every disk has the same seed, and different sectors that survive.
std::string seed_of(const Object& disk, uint64_t seed) {
  uint64_t name = 0;
  for (const char c : disk.name) name = mix(name, static_cast<unsigned char>(c));
  return std::to_string(mix(seed, name));
}

bool is_named(const Object& disk, const std::string& name) {
  return disk.name == name || disk.display() == name;
}

Result<> check_kept(const std::vector<Object>& disks, const PowerCut& cut) {
  std::vector<std::string> known;
  for (const Object& disk : disks) known.push_back(disk.display());
  for (const PowerCut::Range& range : cut.keep) {
    const auto same = [&](const Object& disk) { return is_named(disk, range.disk); };
    if (std::none_of(disks.begin(), disks.end(), same))
      return fail(Error(Code::no_such_disk,
                        fmt::format("--keep: no disk '{}' loses its power (disks: {})", range.disk,
                                    known.empty() ? "none" : join(known, " ")))
                      .with("valid", known));
  }
  return {};
}

json request_for(const Object& disk, const PowerCut& cut) {
  json request = {{"survivors", cut.survivors}, {"seed", seed_of(disk, cut.seed)}};
  if (cut.atomic_bytes != 0) request["atomic_bytes"] = cut.atomic_bytes;
  json keep = json::array();
  for (const PowerCut::Range& range : cut.keep)
    if (is_named(disk, range.disk)) keep.push_back({range.offset, range.length});
  request["keep"] = keep;
  return request;
}

// Everything that can be refused is refused here, while nothing has happened yet.
Result<std::vector<Victim>> prepare(const std::vector<Object>& disks, const PowerCut& cut,
                                    const Deadline& deadline) {
  TRY(check_kept(disks, cut));
  std::vector<Victim> victims;
  for (const Object& disk : disks) {
    TRY_ASSIGN(serve::DiskClient client, serve::DiskClient::connect(disk, deadline));
    json request = request_for(disk, cut);
    request["op"] = "power.check";
    TRY(client.call(request));
    victims.push_back({disk, std::move(client), std::move(request)});
  }
  return victims;
}

// One after another, and yet one instant for all: a disk that is frozen tells nobody anything, so
// nothing that reaches a disk which is frozen later can come from something that happened on this
// one after it was frozen. Whoever looks at all of them finds a state in which they can have been
// at one moment.
Result<> freeze(std::vector<Victim>& victims) {
  for (Victim& victim : victims) TRY(victim.client.call({{"op", "power.freeze"}}));
  return {};
}

// The first that goes wrong is reported when all have been cut: what is frozen has no way back.
Result<json> finish(std::vector<Victim>& victims, const PowerCut& cut, const Deadline& deadline) {
  std::optional<Error> first;
  json list = json::array();
  for (Victim& victim : victims) {
    const uint64_t left = deadline.left_ns() / k_ns_per_ms;
    victim.request["op"] = "power.cut";
    victim.request["timeout_ms"] = left - std::min(left, k_reply_slack_ms);
    const auto lost = victim.client.call(victim.request);
    if (!lost && !first) first = lost.error();
    if (!lost) continue;
    json row = {{"id", victim.disk.name},
                {"dropped_bytes", (*lost)["dropped_bytes"]},
                {"kept_bytes", (*lost)["kept_bytes"]},
                {"survivors", cut.survivors}};
    if (cut.survivors == "random") row["seed"] = std::to_string(cut.seed);
    list.push_back(std::move(row));
  }
  if (first) return fail(first->with("power_cut", list));
  return list;
}

// A drive that came with --qemu-arg goes on with what QEMU last gave to the host: that would be
// another instant.
Result<> check_drives(const Object& vm, const Deadline& deadline) {
  TRY_ASSIGN(const json status, call_supervisor(vm, {{"op", "status"}}, deadline, "power-cut"));
  std::vector<std::string> ours;
  for (const json& slot : status["disks"]) ours.push_back(node_name(slot.get<size_t>()));
  TRY_ASSIGN(const json drives, call_qmp(vm, "query-block", json(), deadline));
  for (const json& drive : drives) {
    const json* medium = find(drive, "inserted");
    if (!medium) continue;
    const std::string node = get_string(*medium, "node-name");
    if (std::find(ours.begin(), ours.end(), node) != ours.end()) continue;
    const std::string name = get_string(drive, "device");
    return fail(Code::not_mediated, fmt::format("VM '{}' has a drive '{}' that is not served here",
                                                vm.name, name.empty() ? node : name));
  }
  return {};
}

Result<std::vector<Object>> served_disks(const RunDir& run, const Object& vm) {
  std::vector<Object> disks;
  for (Object& disk : serve::disks_of_vm(run, vm)) {
    TRY_ASSIGN(const json state, disk.load());
    if (get_string(state, "state") != "detached") disks.push_back(std::move(disk));
  }
  return disks;
}

// Locks of all that a cut of single disks must not meet: their VMs, or the disks themselves.
Result<std::vector<LockFile>> lock_all(const RunDir& run, const std::vector<Object>& disks,
                                       const Deadline& deadline) {
  std::map<std::string, Object>
      objects;  // in one order, so that two cuts never wait for each other
  for (const Object& disk : disks) {
    const auto vm = disk.owner.empty() ? std::nullopt : run.find("vm", "", disk.owner);
    const Object& object = vm ? *vm : disk;
    objects.emplace(object.dir, object);
  }
  std::vector<LockFile> locks;
  for (const auto& [dir, object] : objects) {
    const bool is_vm = object.kind == "vm";
    TRY_ASSIGN(LockFile lock, is_vm ? lock_vm(object, deadline) : object.lock(deadline));
    locks.push_back(std::move(lock));
    if (!is_vm) continue;
    TRY_ASSIGN(const json state, object.load());
    const std::string now = actual_state(object, state);
    if (now != "booted" && now != "paused") continue;
    return fail(Error(Code::wrong_state,
                      fmt::format("VM '{}' is {} and uses the disk; cut the power of the VM",
                                  object.name, now))
                    .with("state", now)
                    .with("allowed", {"created", "shutdown", "dead"}));
  }
  return locks;
}

}  // namespace

Result<json> cut_power(const RunDir& run, const Object& vm, const PowerCut& cut,
                       const Deadline& deadline) {
  TRY_ASSIGN(const LockFile lock, lock_vm(vm, deadline));
  TRY_ASSIGN(const json state, vm.load());
  TRY(require_state(vm, state, "power-cut", {"booted", "paused"}));
  TRY_ASSIGN(const std::vector<Object> disks, served_disks(run, vm));
  TRY_ASSIGN(std::vector<Victim> victims, prepare(disks, cut, deadline));
  TRY(check_drives(vm, deadline));
  // The disks first: a QEMU that is being killed may still send, and nobody listens any more.
  TRY(freeze(victims));
  TRY(call_supervisor(vm, {{"op", "power_cut"}}, deadline, "power-cut"));
  return finish(victims, cut, deadline);
}

Result<json> cut_power(const RunDir& run, std::vector<Object> disks, const PowerCut& cut,
                       const Deadline& deadline) {
  const auto before = [](const Object& a, const Object& b) { return a.dir < b.dir; };
  const auto same = [](const Object& a, const Object& b) { return a.dir == b.dir; };
  std::vector<Object> sorted = disks;
  std::sort(sorted.begin(), sorted.end(), before);
  if (std::adjacent_find(sorted.begin(), sorted.end(), same) != sorted.end())
    return fail(Code::usage, "a disk is named twice");
  TRY_ASSIGN(const std::vector<LockFile> locks, lock_all(run, disks, deadline));
  TRY_ASSIGN(std::vector<Victim> victims, prepare(disks, cut, deadline));
  TRY(freeze(victims));
  return finish(victims, cut, deadline);
}

}  // namespace pv::vm
