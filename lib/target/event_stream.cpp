// SPDX-License-Identifier: MIT
#include "target/event_stream.hpp"

#include <algorithm>
#include <fcntl.h>

#include <fmt/format.h>

#include "base/dir_watch.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/fault/journal.hpp"
#include "serve/client.hpp"
#include "serve/disk_object.hpp"

namespace pv::target {
namespace {

constexpr uint64_t k_max_faults = 65536;
constexpr uint64_t k_call_ns = 5 * k_ns_per_s;

uint64_t time_of(const json& event) {
  return std::strtoull(get_string(event, "t_ns").c_str(), nullptr, 10);
}

}  // namespace

Result<> EventStream::give(const json& event) {
  ++count_;
  return take_(event);
}

Result<> EventStream::read_log(const std::function<void(json)>& take) {
  return log_.read([&](json event) -> Result<> {
    if (get_u64(event, "seq") > since_)
      take(std::move(event));
    else
      from_ns_ = time_of(event);
    return {};
  });
}

// A disk's journal counts the time since its server began, and the server says when that was.
std::vector<json> EventStream::faults_of(Disk& disk, const json& where) const {
  std::vector<json> out;
  const uint64_t began = std::strtoull(get_string(where, "began_ns").c_str(), nullptr, 10);
  const uint64_t last = get_u64(where, "last");
  disk.last = std::max(disk.last, last > k_max_faults ? last - k_max_faults : 0);
  const auto faults = blk::read_journal(where, disk.last, k_max_faults);
  disk.last = last;
  if (!faults) return out;
  for (json fault : *faults) {
    const uint64_t t_ns = began + get_u64(fault, "t_ns");
    if (t_ns < from_ns_) continue;
    fault.erase("t_ns");
    json data = {{"disk", disk.id}};
    data.update(fault);
    out.push_back({{"t_ns", std::to_string(t_ns)}, {"event", "fault"}, {"data", data}});
  }
  return out;
}

Result<> EventStream::catch_up() {
  std::vector<json> all;
  TRY(read_log([&](json event) { all.push_back(std::move(event)); }));
  for (const Object& object : serve::disks_of_vm(run_, vm_)) {
    auto client = serve::DiskClient::connect(object, Deadline::in_ns(k_call_ns));
    if (!client) continue;  // a dead disk has nothing to say
    const auto where = client->call({{"op", "fault.journal"}});
    if (!where) continue;  // no fault layer
    Disk& disk = disks_[object.dir];
    disk.id = object.name;
    for (json& fault : faults_of(disk, *where)) all.push_back(std::move(fault));
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const json& a, const json& b) { return time_of(a) < time_of(b); });
  for (const json& event : all) TRY(give(event));
  return {};
}

// Each disk answers when it has met something new.
void EventStream::ask(Disk& disk) {
  constexpr uint64_t k_long_ms = 24 * 3600 * 1000;
  disk.channel->send(
      to_line({{"op", "fault.wait"}, {"since", disk.last}, {"timeout_ms", k_long_ms}}) + "\n");
}

Result<> EventStream::hear(Disk& disk, const std::string& line) {
  const auto where = parse_json(line);
  if (!where || !find(*where, "files")) return {};
  for (const json& fault : faults_of(disk, *where)) TRY(give(fault));
  ask(disk);
  return {};
}

void EventStream::connect_disks(Loop& loop) {
  for (const Object& object : serve::disks_of_vm(run_, vm_)) {
    Disk& disk = disks_[object.dir];
    disk.id = object.name;
    if (disk.channel) continue;
    auto client = serve::DiskClient::connect(object, Deadline::in_ns(k_call_ns));
    if (!client) continue;
    disk.channel = std::make_unique<LineChannel>(
        loop, client->release(),
        LineChannel::Handler{[this, &loop, &disk](const std::string& line) {
                               if (!hear(disk, line)) loop.stop();
                             },
                             [](const char*) {}});
    ask(disk);
  }
}

Result<> EventStream::follow() {
  auto made = Loop::create();
  if (!made) return fail(made.error());
  Loop& loop = **made;
  auto watch = DirWatch::open(vm_.dir);
  if (!watch) return vm_.exists() ? Result<>(fail(watch.error())) : Result<>();
  Result<> result;
  const auto look = [&] {
    watch->drain();
    std::vector<json> news;
    result = read_log([&](json event) { news.push_back(std::move(event)); });
    for (const json& event : news)
      if (result) result = give(event);
    if (!result || !vm_.exists()) return loop.stop();
    for (const json& event : news)
      if (get_string(event, "event") == "disk_attached") connect_disks(loop);
  };
  TRY(loop.watch(watch->fd(), EPOLLIN, [&](uint32_t) { look(); }));
  connect_disks(loop);
  look();
  if (vm_.exists()) TRY(loop.run());
  disks_.clear();  // their channels are the loop's
  return result;
}

}  // namespace pv::target
