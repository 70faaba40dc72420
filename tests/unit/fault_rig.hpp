// SPDX-License-Identifier: MIT
// A fault layer whose time is moved by hand, over a memory disk whose I/O can be held back.
#pragma once

#include <fmt/format.h>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/backend/memory.hpp"
#include "blk/fault/journal.hpp"
#include "blk/registry.hpp"

namespace pv::test {

using namespace blk;

constexpr uint64_t k_rig_size = 1 << 20;

// Holds what reaches the bottom until it is told to let go.
struct Gate final : Forward {
  using Forward::Forward;
  bool closed = false;
  std::vector<Request*> held;
  void submit(Request& request) override {
    if (closed)
      held.push_back(&request);
    else
      lower().submit(request);
  }
  void open() {
    closed = false;
    for (Request* request : std::exchange(held, {})) lower().submit(*request);
  }
};

struct Rig {
  ManualClock clock;
  ManualTimers timers{clock};
  Gate* gate = nullptr;
  std::unique_ptr<Disk> disk;

  explicit Rig(const std::vector<LayerSpec>& layers = {{"fault", {}}}) {
    Geometry geometry;
    geometry.size = k_rig_size;
    auto bottom = std::make_unique<Gate>(*make_memory_disk(geometry));
    gate = bottom.get();
    auto built = build_stack(std::move(bottom), layers, {clock, timers, nullptr, 0}, true);
    REQUIRE(built);
    disk = std::move(*built);
  }
  ~Rig() {
    gate->open();
    timers.advance_ns(100 * k_ns_per_s);
    gate->open();
  }

  Result<json> call(const json& request) { return disk->control(*parse_json(to_line(request))); }
  void add(const json& rule) {
    const auto reply = call({{"op", "fault.add"}, {"rule", rule}});
    if (!reply) FAIL(reply.error().message);
  }
  void clear(const std::string& id = "") { REQUIRE(call({{"op", "fault.clear"}, {"id", id}})); }
  json rules() { return (*call({{"op", "fault.list"}}))["rules"]; }
  json events(uint64_t since = 0, size_t max = SIZE_MAX) {
    return *read_journal(*call({{"op", "fault.journal"}}), since, max);
  }
  void submit(Io& io) { disk->submit(io.request); }
  void advance_ms(uint64_t ms) { timers.advance_ns(ms * k_ns_per_ms); }
};

inline json error_rule(const std::string& id, const char* op = "read", const char* name = "EIO") {
  return {{"id", id}, {"match", {{"op", {op}}}}, {"do", {{"kind", "error"}, {"errno", name}}}};
}
inline json delay_rule(const std::string& id, double ms) {
  return {{"id", id}, {"do", {{"kind", "delay"}, {"delay_ms", ms}}}};
}

}  // namespace pv::test
