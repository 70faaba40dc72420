// SPDX-License-Identifier: MIT
// If this fails, delay or throttle lets requests through too early, too late, out of order, or
// does not do what it is told while it runs. Time is moved by hand.
#include <algorithm>

#include "layer_rig.hpp"

namespace {

using namespace pv;
using namespace pv::test;

using Ios = std::vector<std::unique_ptr<Io>>;

Ios submit_many(LayerRig& rig, Op op, size_t count, uint64_t length = 512) {
  Ios all;
  for (size_t i = 0; i < count; ++i) {
    all.push_back(std::make_unique<Io>(op, op == Op::flush ? 0 : i * length, length));
    rig.submit(*all.back());
  }
  return all;
}

size_t completed(const Ios& all) {
  return static_cast<size_t>(
      std::count_if(all.begin(), all.end(), [](const auto& io) { return io->completions == 1; }));
}

Result<json> set(LayerRig& rig, const char* layer, const json& params) {
  return rig.call({{"op", "layer.set"}, {"layer", layer}, {"params", params}});
}

TEST_CASE("every operation waits, or those named", "[delay]") {
  for (const bool some : {false, true}) {
    LayerRig rig({some ? "delay:ms=5,ops=flush+discard" : "delay:ms=5"});
    for (const Op op : {Op::read, Op::write, Op::flush, Op::discard, Op::zero, Op::map}) {
      Io io(op, 0, op == Op::flush ? 0 : 512);
      rig.submit(io);
      const bool waits = !some || op == Op::flush || op == Op::discard;
      CHECK(io.completions == (waits ? 0 : 1));
      rig.timers.advance_ns(5 * k_ns_per_ms - 1);
      CHECK(io.completions == (waits ? 0 : 1));
      rig.timers.advance_ns(1);
      CHECK(io.completions == 1);
    }
  }
}

TEST_CASE("a shorter delay wakes those who wait; a longer one leaves them", "[delay]") {
  LayerRig rig({"delay:ms=100"});
  Ios first = submit_many(rig, Op::read, 2);
  rig.advance_ms(20);
  REQUIRE(set(rig, "delay", {{"ms", "500"}}));
  Ios second = submit_many(rig, Op::read, 1);
  rig.advance_ms(80);
  CHECK(completed(first) == 2);
  CHECK(completed(second) == 0);
  REQUIRE(set(rig, "delay", {{"for", "90ms"}}));
  rig.advance_ms(9);
  CHECK(completed(second) == 0);
  rig.advance_ms(1);
  CHECK(completed(second) == 1);
  Ios third = submit_many(rig, Op::read, 3);
  REQUIRE(set(rig, "delay", {{"ms", "0"}}));
  rig.advance_ms(1);
  CHECK(completed(third) == 3);
  CHECK(rig.run(Op::read, 0, 512) == 0);
  CHECK(rig.shown()["delay"]["delay_ms"] == 0.0);
}

TEST_CASE("what cannot be set is refused and changes nothing", "[delay]") {
  LayerRig rig({"delay:ms=5"});
  for (const json& params : {json{{"ms", "x"}}, json{{"ops", "reed"}}, json{{"size", "1"}},
                             json{{"ms", "1"}, {"for", "1s"}}, json{{"ms", 7}}, json::object()}) {
    const auto answer = set(rig, "delay", params);
    REQUIRE_FALSE(answer);
    CHECK(answer.error().code == Code::usage);
  }
  CHECK(rig.shown()["delay"]["delay_ms"] == 5.0);
  const auto other = set(rig, "throttle", {{"iops", "5"}});
  REQUIRE_FALSE(other);
  CHECK(other.error().code == Code::unsupported);
}

TEST_CASE("operations go at the rate, after what was saved up", "[throttle]") {
  LayerRig rig({"throttle:iops=100,burst=50ms"});
  Ios all = submit_many(rig, Op::write, 30);
  CHECK(completed(all) == 6);  // five that were saved up, and the one that makes the debt
  rig.advance_ms(100);
  CHECK(completed(all) == 16);
  rig.advance_ms(140);
  CHECK(completed(all) == 30);
  for (size_t i = 0; i < all.size(); ++i) CHECK(rig.below->seen[i].offset == i * 512);
}

TEST_CASE("a request larger than the bucket goes, and leaves a debt", "[throttle]") {
  LayerRig rig({"throttle:bps=64K,burst=0s"});
  Io large(Op::write, 0, 65'536), small(Op::read, 0, 512), flush(Op::flush, 0, 0);
  rig.submit(large);
  CHECK(large.error == 0);
  rig.submit(small);
  rig.submit(flush);
  CHECK(flush.error == 0);  // carries no bytes
  rig.advance_ms(990);
  CHECK(small.completions == 0);
  rig.advance_ms(10);
  CHECK(small.error == 0);
}

TEST_CASE("a limit of one direction leaves the other alone", "[throttle]") {
  LayerRig rig({"throttle:iops-write=10,burst=0s"});
  Ios writes = submit_many(rig, Op::write, 5);
  CHECK(completed(submit_many(rig, Op::read, 50)) == 50);
  CHECK(completed(writes) == 1);
  rig.advance_ms(400);
  CHECK(completed(writes) == 5);
  for (const auto& io : writes) CHECK(io->error == 0);
}

TEST_CASE("a rate can change while requests wait", "[throttle]") {
  LayerRig rig({"throttle:iops=1,burst=0s"});
  Ios all = submit_many(rig, Op::read, 4);
  CHECK(completed(all) == 1);
  REQUIRE(set(rig, "throttle", {{"iops", "1000"}}));
  rig.advance_ms(3);
  CHECK(completed(all) == 4);
  REQUIRE(set(rig, "throttle", {{"iops", "0"}, {"bps", "1M"}}));
  CHECK(rig.shown()["throttle"].count("iops") == 0);
  CHECK_FALSE(set(rig, "throttle", {{"iops", "fast"}}));
}

TEST_CASE("a throttle without a limit, or with a wrong one, is refused", "[throttle]") {
  CHECK_THAT(refusal("throttle"), contains_text("needs a limit"));
  CHECK_THAT(refusal("throttle:burst=1s"), contains_text("needs a limit"));
  CHECK_THAT(refusal("throttle:iops=fast"), contains_text("iops=fast is not a number a second"));
  CHECK_THAT(refusal("throttle:bps=-1"), contains_text("bps=-1 is not a size a second"));
  CHECK_THAT(refusal("throttle:iops=1,burst=x"), contains_text("burst=x is not a duration"));
}

}  // namespace
