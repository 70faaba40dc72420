// SPDX-License-Identifier: MIT
#include "serve/power_cut.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "serve/client.hpp"

namespace pv::serve {
namespace {

constexpr uint64_t k_reply_slack_ms = 500;  // the server's word on what is late comes before ours

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

}  // namespace

struct Blackout::Victim {
  Object disk;
  DiskClient client;
  json request;
};

Blackout::Blackout(PowerCut cut) : cut_(std::move(cut)) {}
Blackout::Blackout(Blackout&&) noexcept = default;
Blackout::~Blackout() = default;

Result<Blackout> Blackout::prepare(const std::vector<Object>& disks, PowerCut cut,
                                   const Deadline& deadline) {
  TRY(check_kept(disks, cut));
  Blackout blackout(std::move(cut));
  for (const Object& disk : disks) {
    TRY_ASSIGN(DiskClient client, DiskClient::connect(disk, deadline));
    json request = request_for(disk, blackout.cut_);
    request["op"] = "power.check";
    TRY(client.call(request));
    blackout.victims_.push_back({disk, std::move(client), std::move(request)});
  }
  return blackout;
}

// One after another, and yet one instant for all: a disk that is frozen tells nobody anything, so
// nothing that reaches a disk which is frozen later can come from something that happened on this
// one after it was frozen. Whoever looks at all of them finds a state in which they can have been
// at one moment.
Result<> Blackout::freeze() {
  for (Victim& victim : victims_) TRY(victim.client.call({{"op", "power.freeze"}}));
  return {};
}

Result<json> Blackout::finish(const Deadline& deadline) {
  std::optional<Error> first;
  json list = json::array();
  for (Victim& victim : victims_) {
    const uint64_t left = deadline.left_ns() / k_ns_per_ms;
    victim.request["op"] = "power.cut";
    victim.request["timeout_ms"] = left - std::min(left, k_reply_slack_ms);
    const auto lost = victim.client.call(victim.request);
    if (!lost && !first) first = lost.error();
    if (!lost) continue;
    json row = {{"id", victim.disk.name},
                {"dropped_bytes", (*lost)["dropped_bytes"]},
                {"kept_bytes", (*lost)["kept_bytes"]},
                {"survivors", cut_.survivors}};
    if (cut_.survivors == "random") row["seed"] = std::to_string(cut_.seed);
    list.push_back(std::move(row));
  }
  if (!first) return list;
  const Error& error = *first;
  return fail(error.with("power_cut", list));
}

}  // namespace pv::serve
