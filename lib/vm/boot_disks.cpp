// SPDX-License-Identifier: MIT
#include "vm/boot_disks.hpp"

#include <algorithm>
#include <iterator>
#include <sys/stat.h>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/process.hpp"
#include "base/socket.hpp"
#include "base/text.hpp"
#include "serve/disk_object.hpp"
#include "serve/server.hpp"
#include "serve/spec.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_answer_ns = 10 * k_ns_per_s;

bool has_disk(const json& state, const std::string& id) {
  const json* ids = find(state, "disks");
  return ids && ids->is_array() && std::find(ids->begin(), ids->end(), json(id)) != ids->end();
}

// QEMU begins with a conversation with it and does nothing else before that is over.
Result<> check_answers(const Object& disk) {
  const Deadline deadline = Deadline::in_ns(k_answer_ns);
  TRY_ASSIGN(LineClient client, LineClient::connect(disk.path("ctl.sock"), deadline));
  const auto answer = client.call({{"op", "info"}}, deadline);
  if (answer) return {};
  return fail(answer.error().code,
              fmt::format("disk '{}': its server does not answer", disk.display()));
}

}  // namespace

BootDisks::~BootDisks() {
  for (const Object& disk : made_) static_cast<void>(serve::close_disk(run_, disk));
}

Result<> BootDisks::make(const Profile& profile, json& state, const Deadline& deadline) {
  json order = json::array();
  for (const ProfileDisk& disk : profile.disks) {
    if (has_disk(state, disk.id)) continue;
    if (auto made = make_one(disk, deadline); !made) {
      Error error = made.error();
      error.message =
          fmt::format("profile '{}': disk '{}': {}", profile.name, disk.id, error.message);
      return fail(std::move(error));
    }
    order.push_back(disk.id);
  }
  if (const json* ids = find(state, "disks"))
    for (const json& id : *ids) order.push_back(id);
  state["disks"] = order;
  return {};
}

Result<> BootDisks::make_one(const ProfileDisk& disk, const Deadline& deadline) {
  // Of a boot that was killed: the VM never got it.
  if (auto left = run_.find("disk", vm_.name, disk.id))
    static_cast<void>(serve::close_disk(run_, *left));
  serve::Spec spec;
  serve::SourceFlags source;
  source.image = disk.image;
  source.format = disk.format;
  TRY(serve::set_source(spec, source));
  spec.read_only = disk.read_only;
  if (!disk.read_only) spec.layers = {"cow"};
  TRY(serve::complete(spec, disk.id));
  TRY_ASSIGN(const Object object, run_.create("disk", vm_.name, disk.id));
  made_.push_back(object);
  TRY(serve::start_server(object, spec, deadline));
  return {};
}

Result<std::vector<DiskSpec>> cold_disks(const RunDir& run, const Object& vm, const json& state) {
  std::vector<DiskSpec> disks;
  const json* ids = find(state, "disks");
  if (!ids || !ids->is_array()) return disks;
  for (const json& item : *ids) {
    const std::string id = item.is_string() ? item.get<std::string>() : "";
    const auto object = run.find("disk", vm.name, id);
    const auto disk = object ? object->load() : fail(Code::no_such_disk, "");
    if (!disk) return fail(Code::no_such_disk, fmt::format("VM '{}': no disk '{}'", vm.name, id));
    const bool alive = !find(*disk, "start_ticks") || is_alive(process_from_json(*disk));
    struct stat st {};
    const std::string socket = object->path("nbd.sock");
    if (!alive || stat(socket.c_str(), &st) < 0)
      return fail(Code::server_dead,
                  fmt::format("disk '{}': its server is gone; detach it or attach it anew",
                              object->display()));
    TRY_ASSIGN(DiskSpec spec, disk_spec(*disk, socket));
    if (spec.vhost_user) TRY(check_answers(*object));
    disks.push_back(std::move(spec));
  }
  return disks;
}

std::vector<DiskSpec> planned_disks(const Profile& profile, const json& state,
                                    std::vector<DiskSpec> existing) {
  std::vector<DiskSpec> disks;
  for (const ProfileDisk& disk : profile.disks) {
    if (has_disk(state, disk.id)) continue;
    DiskSpec spec;
    spec.id = disk.id;
    spec.serial = disk.id.substr(0, k_max_serial);
    spec.socket = "(made by boot)";
    spec.read_only = disk.read_only;
    disks.push_back(std::move(spec));
  }
  std::move(existing.begin(), existing.end(), std::back_inserter(disks));
  return disks;
}

}  // namespace pv::vm
