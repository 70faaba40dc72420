// SPDX-License-Identifier: MIT
// If this fails, one of the small layers (readonly, stats, discard, fua) says or does something
// else than its section in pv-layers(7).
#include <algorithm>
#include <cerrno>
#include <initializer_list>
#include <unistd.h>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "base/json.hpp"
#include "blk/backend/memory.hpp"
#include "blk/histogram.hpp"
#include "blk/registry.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

namespace {

// Layers over a memory disk of 1 MiB, on a clock that the test moves. `below` sees what arrives.
struct Stack {
  struct Spy final : Forward {
    using Forward::Forward;
    void submit(Request& request) override {
      ops.push_back(request.op);
      flags.push_back(request.flags);
      lower().submit(request);
    }
    std::vector<Op> ops;
    std::vector<uint32_t> flags;
  };
  ManualClock clock;
  ManualTimers timers{clock};
  Spy* below = nullptr;
  std::unique_ptr<Disk> disk;

  explicit Stack(std::initializer_list<const char*> texts, Geometry geometry = {}) {
    if (geometry.size == 0) geometry.size = 1 << 20;
    auto spy = std::make_unique<Spy>(*make_memory_disk(geometry));
    below = spy.get();
    std::vector<LayerSpec> layers;
    for (const char* text : texts) layers.push_back(*parse_layer(text));
    auto built = build_stack(std::move(spy), layers, {clock, timers, nullptr, 0});
    INFO((built ? "" : built.error().message));
    REQUIRE(built);
    disk = std::move(*built);
  }
  int run(Op op, uint64_t offset, uint64_t length, uint32_t flags = 0, char fill = 'x') {
    Io io(op, offset, length, flags);
    std::fill(io.data.begin(), io.data.end(), fill);
    disk->submit(io.request);
    timers.advance_ns(k_ns_per_s);
    return io.error;
  }
  std::string read(uint64_t offset, uint64_t length) {
    Io io(Op::read, offset, length);
    disk->submit(io.request);
    return io.bytes();
  }
  json shown() {
    json out;
    disk->inspect(out);
    return out;
  }
};

Error refusal(const char* text) {
  Geometry geometry;
  geometry.size = 1 << 20;
  ManualClock clock;
  ManualTimers timers(clock);
  const std::vector<LayerSpec> layers = {*parse_layer(text)};
  auto built = build_stack(*make_memory_disk(geometry), layers, {clock, timers, nullptr, 0});
  REQUIRE_FALSE(built);
  return built.error();
}

}  // namespace

TEST_CASE("readonly refuses changes by itself and says so", "[layers]") {
  Stack stack({"stats", "readonly"});
  CHECK(stack.disk->geometry().read_only);
  for (const Op op : {Op::write, Op::zero, Op::discard}) CHECK(stack.run(op, 0, 512) == EROFS);
  CHECK(stack.run(Op::read, 0, 512) == 0);
  CHECK(stack.run(Op::flush, 0, 0) == 0);
  CHECK(stack.below->ops == std::vector<Op>{Op::read, Op::flush});
  CHECK_FALSE(stack.disk->resize(2 << 20));
}

TEST_CASE("stats counts requests and bytes together, errors apart, and times by a clock",
          "[layers]") {
  Stack stack({"stats", "delay:ms=2,ops=write"});
  for (int i = 0; i < 10; ++i) CHECK(stack.run(Op::write, 0, 4096) == 0);
  CHECK(stack.run(Op::read, 0, 1024) == 0);
  CHECK(stack.run(Op::read, 0, 512, k_internal) == 0);  // ours: not counted
  const json figures = stack.shown()["stats"];
  CHECK(figures["write"]["completed"] == 10);
  CHECK(figures["write"]["bytes"] == 40'960);
  CHECK(figures["write"]["p50_us"].get<double>() >= 2000);
  CHECK(figures["write"]["max_us"].get<double>() >= 2000);
  CHECK(figures["read"]["completed"] == 1);
  CHECK(figures["read"]["bytes"] == 1024);
  CHECK(figures["in_flight"] == 0);
  REQUIRE(stack.disk->control(json{{"op", "stats.reset"}}));
  CHECK(stack.shown()["stats"].contains("write") == false);
}

TEST_CASE("errors move no bytes in stats", "[layers]") {
  Stack stack({"stats", "readonly"});
  Io io(Op::write, 0, 512);
  io.request.done = [](Request& done, int with) { static_cast<Io*>(done.owner)->error = with; };
  stack.disk->submit(io.request);  // refused above, by the checked wrapper: never arrives
  CHECK_FALSE(stack.shown()["stats"].contains("write"));
  Stack failing({"stats:name=top", "fault"});
  const json rule = {{"do", {{"kind", "error"}, {"errno", "EIO"}}}};
  REQUIRE(failing.disk->control({{"op", "fault.add"}, {"rule", json::parse(rule.dump())}}));
  CHECK(failing.run(Op::read, 0, 512) == EIO);
  CHECK(failing.shown()["top"]["read"]["errors"] == 1);
  CHECK(failing.shown()["top"]["read"]["bytes"] == 0);
}

TEST_CASE("a quantile of a histogram is right to an eighth", "[layers]") {
  Histogram histogram;
  CHECK(histogram.quantile_ns(0.5) == 0);
  for (uint64_t ns = 1; ns <= 100'000; ++ns) histogram.add(ns);
  for (const double part : {0.01, 0.5, 0.9, 0.99, 1.0}) {
    const double exact = part * 100'000;
    const auto got = static_cast<double>(histogram.quantile_ns(part));
    CHECK(got >= exact);
    CHECK(got <= exact * 1.125);
  }
  histogram.add(UINT64_MAX);
  CHECK(histogram.max_ns() == UINT64_MAX);
  CHECK(histogram.quantile_ns(1) == UINT64_MAX);
}

TEST_CASE("discard does what it says: zeroes, seeded noise, nothing", "[layers]") {
  Geometry below;
  below.size = 1 << 20;
  below.discard = DiscardBehaviour::unspecified;
  Stack zeroes({"discard:behaviour=zeroes"}, below);
  CHECK(zeroes.run(Op::write, 0, 8192) == 0);
  CHECK(zeroes.run(Op::discard, 512, 1024) == 0);
  CHECK(zeroes.read(0, 2048) ==
        std::string(512, 'x') + std::string(1024, '\0') + std::string(512, 'x'));
  Stack ignored({"discard:behaviour=ignored"});
  CHECK(ignored.run(Op::write, 0, 8192) == 0);
  CHECK(ignored.run(Op::discard, 0, 8192) == 0);
  CHECK(ignored.read(0, 8192) == std::string(8192, 'x'));
  Stack noise({"discard:behaviour=unspecified,noise=5,granularity=4096"});
  CHECK(noise.disk->geometry().discard == DiscardBehaviour::unspecified);
  CHECK(noise.disk->geometry().discard_granularity == 4096);
  CHECK(noise.run(Op::write, 0, 262'144) == 0);
  CHECK(noise.run(Op::discard, 512, 200'000 / 512 * 512) == 0);
  const std::string first = noise.read(0, 262'144);
  CHECK(first.substr(0, 4096) == std::string(4096, 'x'));
  CHECK(first.substr(4096, 512) != std::string(512, 'x'));
  CHECK(first.substr(4096, 512) != std::string(512, '\0'));
  CHECK(first.substr(200'704, 512) == std::string(512, 'x'));
  CHECK(noise.run(Op::write, 4096, 4096, 0, 'y') == 0);
  CHECK(noise.run(Op::discard, 4096, 4096) == 0);
  CHECK(noise.read(0, 262'144) == first);
}

TEST_CASE("fua is taken away or made of write and flush", "[layers]") {
  Stack ignored({"fua:mode=ignored"});
  CHECK_FALSE(ignored.disk->geometry().fua);
  CHECK(ignored.run(Op::write, 0, 512, k_fua) == 0);
  CHECK(ignored.below->flags == std::vector<uint32_t>{0});
  Stack honoured({"fua:mode=honoured"});
  CHECK(honoured.disk->geometry().fua);
  CHECK(honoured.run(Op::write, 0, 512, k_fua) == 0);
  CHECK(honoured.run(Op::write, 0, 512) == 0);
  CHECK(honoured.below->ops == std::vector<Op>{Op::write, Op::flush, Op::write});
}

TEST_CASE("small layers refuse values that make no sense, naming what is valid", "[layers]") {
  CHECK(refusal("fua:mode=maybe").message.find("ignored or honoured") != std::string::npos);
  CHECK(refusal("fua").code == Code::usage);
  CHECK(refusal("discard:behaviour=no").message.find("unspecified") != std::string::npos);
  CHECK(refusal("discard:granularity=100").code == Code::usage);
  CHECK(refusal("discard:granularity=256").code == Code::usage);
  CHECK(refusal("discard:behaviour=zeroes,noise=1").code == Code::usage);
  CHECK(refusal("readonly:x=1").message.find("keys: none") != std::string::npos);
  CHECK(refusal("stats:nme=x").message.find("keys: name") != std::string::npos);
}
