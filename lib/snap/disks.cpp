// SPDX-License-Identifier: MIT
#include "snap/disks.hpp"

#include <fmt/format.h>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "serve/client.hpp"

namespace pv::snap {
namespace {

Error about(const std::string& id, Error error) {
  error.message = fmt::format("disk '{}': {}", id, error.message);
  return error;
}

}  // namespace

Result<> SavedDisks::add(const RunDir& run, const Object& vm, const std::string& id,
                         const std::string& dir) {
  const auto object = run.find("disk", vm.name, id);
  if (!object) return fail(Code::no_such_disk, fmt::format("VM '{}': no disk '{}'", vm.name, id));
  TRY_ASSIGN(serve::DiskClient client, serve::DiskClient::connect(*object, deadline_));
  Disk disk{id, dir + "/disks/" + id, LineClient(client.release()), 0};
  TRY(make_dir(disk.dir));
  TRY(call(disk, {{"op", "snap.prepare"}}));
  disks_.push_back(std::move(disk));
  return {};
}

Result<SavedDisks> SavedDisks::prepare(const RunDir& run, const Object& vm, const std::string& dir,
                                       const Deadline& deadline) {
  SavedDisks disks(deadline);
  TRY(make_dir(dir + "/disks"));
  TRY_ASSIGN(const json state, vm.load());
  for (const json& id : state.value("disks", json::array()))
    TRY(disks.add(run, vm, id.get<std::string>(), dir));
  return disks;
}

Result<json> SavedDisks::call(Disk& disk, json request) {
  request["timeout_ms"] = deadline_.left_ns() / k_ns_per_ms;
  auto reply = disk.line.call(request, deadline_);
  if (!reply) return fail(about(disk.id, reply.error()));
  return reply;
}

Result<uint64_t> SavedDisks::flushes_of(Disk& disk) {
  TRY_ASSIGN(const json reply, call(disk, {{"op", "snap.flushes"}}));
  return get_u64(reply, "flushes");
}

Result<> SavedDisks::count_flushes() {
  for (Disk& disk : disks_) {
    TRY_ASSIGN(disk.flushes, flushes_of(disk));
  }
  return {};
}

// One that came since, although the guest has had no flush done, is QEMU's own. Where they are not
// counted, because the guest's do not pass through QEMU, it has none of its own.
Result<> SavedDisks::start_save(const json& before, const json& after) {
  for (Disk& disk : disks_) {
    TRY_ASSIGN(const uint64_t now, flushes_of(disk));
    const char* key = disk.id.c_str();
    const bool qemus =
        find(before, key) && now > disk.flushes && get_u64(before, key) == get_u64(after, key);
    TRY(disk.line.send_line({{"op", "snap.save"},
                             {"dir", disk.dir},
                             {"final", false},
                             {"pending_flush", qemus ? "drop" : "keep"},
                             {"timeout_ms", deadline_.left_ns() / k_ns_per_ms}},
                            deadline_));
  }
  return {};
}

Result<json> SavedDisks::finish_save() {
  json manifests = json::object();
  std::optional<Error> first;
  for (Disk& disk : disks_) {
    auto reply = disk.line.read_json(deadline_);
    const json* wrong = reply ? find(*reply, "error") : nullptr;
    if (!reply && !first) first = about(disk.id, reply.error());
    if (wrong && !first) first = about(disk.id, error_from_json(*wrong));
    if (reply && !wrong) manifests[disk.id] = std::move(*reply);
  }
  if (first) return fail(*first);
  return manifests;
}

}  // namespace pv::snap
