// SPDX-License-Identifier: MIT
// Layers over a disk in memory that can be held back, made to fail and looked at from below, with
// time that is moved by hand.
#pragma once

#include <algorithm>
#include <unistd.h>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/backend/memory.hpp"
#include "blk/registry.hpp"

namespace pv::test {

using namespace blk;

// What stands below the layers: notes every request, and holds it while `closed`.
struct Probe final : Forward {
  using Forward::Forward;
  struct Seen {
    Op op;
    uint64_t offset, length;
    uint32_t flags;
    bool operator==(const Seen&) const = default;
  };
  std::vector<Seen> seen;
  std::vector<Request*> held;
  bool closed = false;
  int error = 0;  // for what changes data, and for `failing_op`
  Op failing_op = Op::write;
  Geometry shown;
  const Geometry& geometry() const override { return shown; }
  void submit(Request& request) override {
    seen.push_back({request.op, request.offset, request.length, request.flags});
    if (closed)
      held.push_back(&request);
    else
      pass(request);
  }
  void pass(Request& request) {
    if (error != 0 && request.op == failing_op) return request.done(request, error);
    if (request.op == Op::discard && shown.discard == DiscardBehaviour::ignored)
      return request.done(request, 0);
    lower().submit(request);
  }
  void open() {
    closed = false;
    for (Request* request : std::exchange(held, {})) pass(*request);
  }
  size_t count(Op op) const {
    return static_cast<size_t>(
        std::count_if(seen.begin(), seen.end(), [&](const Seen& s) { return s.op == op; }));
  }
  std::string content(uint64_t offset, uint64_t length) {
    Io io(Op::read, offset, length);
    lower().submit(io.request);
    return io.bytes();
  }
};

struct LayerRig {
  ManualClock clock;
  ManualTimers timers{clock};
  Probe* below = nullptr;
  std::unique_ptr<Disk> disk;

  explicit LayerRig(const std::vector<std::string>& layers, Geometry geometry = small()) {
    auto bottom = std::make_unique<Probe>(*make_memory_disk(geometry));
    bottom->shown = geometry;
    below = bottom.get();
    std::vector<LayerSpec> specs;
    for (const std::string& text : layers) specs.push_back(*parse_layer(text));
    auto built = build_stack(std::move(bottom), specs, {clock, timers, nullptr, 0}, true);
    INFO((built ? "" : built.error().message));
    REQUIRE(built);
    disk = std::move(*built);
  }
  ~LayerRig() {
    below->error = 0;
    below->open();
    timers.advance_ns(1000 * k_ns_per_s);
    below->open();
  }
  static Geometry small() {
    Geometry geometry;
    geometry.size = 1 << 20;
    return geometry;
  }

  Result<json> call(const json& request) { return disk->control(*parse_json(to_line(request))); }
  json shown() {
    json all;
    disk->inspect(all);
    return all;
  }
  // In small steps: a timer that sets another one gets its turn.
  void advance_ms(uint64_t ms) {
    for (uint64_t i = 0; i < 4 * ms; ++i) timers.advance_ns(k_ns_per_ms / 4);
  }
  void submit(Io& io) { disk->submit(io.request); }
  int run(Op op, uint64_t offset = 0, uint64_t length = 0, uint32_t flags = 0) {
    Io io(op, offset, length, flags);
    submit(io);
    return io.completions == 1 ? io.error : -1;
  }
  int write(uint64_t offset, const std::string& bytes, uint32_t flags = 0) {
    Io io(Op::write, offset, bytes.size(), flags);
    std::copy(bytes.begin(), bytes.end(), io.data.begin());
    submit(io);
    return io.completions == 1 ? io.error : -1;
  }
  std::string read(uint64_t offset, uint64_t length) {
    Io io(Op::read, offset, length);
    submit(io);
    return io.error == 0 ? io.bytes() : "error " + std::to_string(io.error);
  }
};

// Why a layer cannot be made.
inline std::string refusal(const std::string& layer, Code code = Code::usage,
                           const Geometry& geometry = LayerRig::small()) {
  ManualClock clock;
  ManualTimers timers(clock);
  const LayerSpec spec = *parse_layer(layer);
  auto built =
      build_stack(*make_memory_disk(geometry), {&spec, 1}, {clock, timers, nullptr, 0}, true);
  if (built) return "accepted";
  return built.error().code == code ? built.error().message
                                    : "another code: " + built.error().message;
}

inline std::string many(char c, size_t n) {
  return std::string(n, c);
}

}  // namespace pv::test
