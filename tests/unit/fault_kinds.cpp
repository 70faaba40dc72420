// SPDX-License-Identifier: MIT
// If this fails, faults together leave something else than each says: a repaired disk that is not
// what it should be, held requests in the wrong order, delays that end at the wrong time, actions
// that do not outlive their rule. Time is moved by hand.
#include <algorithm>
#include <cerrno>

#include "blk/fault/chance.hpp"
#include "fault_rig.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

namespace {

const char* const k_write_kinds[] = {
    R"({"kind":"drop_write"})",
    R"({"kind":"torn_write","keep":"random"})",
    R"({"kind":"torn_write"})",
    R"({"kind":"misdirect_write","shift_bytes":4096})",
    R"({"kind":"misdirect_write","to_bytes":8192})",
    R"({"kind":"corrupt_write","count":5})",
    R"({"kind":"corrupt_write","pattern":"foreign","from_bytes":2048})",
    R"({"kind":"short"})",
    R"({"kind":"late_write","after_ms":7})",
    R"({"kind":"duplicate_write","after_ms":5})",
};

constexpr uint64_t k_used = 64 * 512;  // so that requests overlap

std::unique_ptr<Io> random_write(Rng& rng, std::string& honest) {
  const uint64_t first = rng.below(60), count = 1 + rng.below(60 - first);
  auto io = std::make_unique<Io>(Op::write, first * 512, count * 512);
  const std::string data = random_bytes(rng, io->request.length);
  std::copy(data.begin(), data.end(), io->data.begin());
  honest.replace(io->request.offset, data.size(), data);
  return io;
}

std::string contents(Rig& rig) {
  Io io(Op::read, 0, k_used);
  rig.submit(io);
  REQUIRE(io.error == 0);
  return io.bytes();
}

// k_used where there is none: a test that fails must not print the disk.
size_t first_difference(const std::string& a, const std::string& b) {
  return static_cast<size_t>(std::mismatch(a.begin(), a.end(), b.begin()).first - a.begin());
}

void settle(Rig& rig) {
  Io flush(Op::flush, 0, 0, k_internal);
  rig.submit(flush);
  REQUIRE(flush.completions == 1);
}

}  // namespace

TEST_CASE("whatever write faults have met, a repair makes the disk that has met none", "[fault]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  for (int round = 0; round < 60; ++round) {
    Rng rng(mix(seed, static_cast<uint64_t>(round)));
    Rig rig;
    std::string honest(k_used, '\0');
    json rules = json::array();
    for (int i = 0; i < 4; ++i) {
      json rule = {{"do", json::parse(k_write_kinds[rng.below(std::size(k_write_kinds))])},
                   {"when", {{"probability", 0.4}, {"seed", std::to_string(rng.next())}}}};
      rig.add(rule);
      rules.push_back(rule["do"]);
    }
    for (int i = 0; i < 40; ++i) {
      const auto io = random_write(rng, honest);
      rig.submit(*io);
      REQUIRE(io->completions == 1);
      if (rng.below(3) == 0) rig.advance_ms(rng.below(10));
    }
    REQUIRE(rig.call({{"op", "fault.clear"}, {"id", ""}, {"repair", true}}));
    settle(rig);
    INFO("round " << round << ": " << to_line(rules));
    REQUIRE(first_difference(contents(rig), honest) == k_used);
    rig.advance_ms(1000);
    REQUIRE(first_difference(contents(rig), honest) == k_used);
    CHECK((*rig.call({{"op", "fault.truth"}}))["damaged_bytes"] == 0);
  }
}

TEST_CASE("a repair while another rule's write is still to land does not block the disk",
          "[fault]") {
  Rig rig;
  rig.add({{"id", "late"},
           {"match", {{"ranges", {{0, 512}}}}},
           {"do", {{"kind", "late_write"}, {"after_ms", 100}}}});
  rig.add({{"id", "drop"}, {"do", {{"kind", "drop_write"}}}});
  Io first(Op::write, 0, 512), second(Op::write, 4096, 512);
  rig.submit(first);
  rig.submit(second);
  REQUIRE(rig.call({{"op", "fault.clear"}, {"id", "drop"}, {"repair", true}}));
  Io healthy(Op::write, 8192, 512);
  rig.submit(healthy);
  CHECK(healthy.completions == 1);
}

TEST_CASE("read faults leave nothing behind when they are cleared", "[fault]") {
  Rig rig;
  Rng rng(test_seed());
  Io written(Op::write, 0, k_used);
  const std::string honest = random_bytes(rng, k_used);
  std::copy(honest.begin(), honest.end(), written.data.begin());
  rig.submit(written);
  for (const char* kind : {R"({"kind":"corrupt_read","pattern":"ones"})", R"({"kind":"short"})",
                           R"({"kind":"misdirect_read","shift_bytes":16384})"}) {
    rig.add({{"do", json::parse(kind)}});
    CHECK(first_difference(contents(rig), honest) < k_used);
    rig.clear();
    CHECK(first_difference(contents(rig), honest) == k_used);
  }
}

TEST_CASE("held requests go on in the order in which they are named", "[fault]") {
  Rig rig;
  rig.add({{"id", "hold"}, {"match", {{"op", {"write"}}}}, {"do", {{"kind", "stall"}}}});
  std::vector<std::unique_ptr<Io>> all;
  for (uint64_t i = 0; i < 8; ++i) {
    all.push_back(std::make_unique<Io>(Op::write, i * 512, 512));
    rig.submit(*all.back());
  }
  rig.gate->closed = true;
  json tickets = json::array();
  const json held = (*rig.call({{"op", "fault.held"}}))["held"];
  REQUIRE(held.size() == 8);
  const size_t order[] = {5, 2, 7, 0};
  for (const size_t i : order) tickets.push_back(held[i]["ticket"]);
  REQUIRE(rig.call({{"op", "fault.release"}, {"tickets", tickets}}));
  REQUIRE(rig.gate->held.size() == 4);
  for (size_t i = 0; i < 4; ++i) CHECK(rig.gate->held[i]->offset == order[i] * 512);
  rig.gate->open();
  REQUIRE(rig.call({{"op", "fault.stop"}}));
  for (size_t i = 0; i < 8; ++i) {
    CHECK(all[i]->completions == 1);
    const bool let = std::find(std::begin(order), std::end(order), i) != std::end(order);
    CHECK(all[i]->error == (let ? 0 : ESHUTDOWN));
  }
}

TEST_CASE("what a rule holds goes on when the rule's time is over", "[fault]") {
  Rig rig;
  rig.add({{"id", "pause"}, {"when", {{"until_ms", 120}}}, {"do", {{"kind", "stall"}}}});
  rig.advance_ms(100);
  Io io(Op::read, 0, 512);
  rig.submit(io);
  rig.advance_ms(19);
  CHECK(io.completions == 0);
  rig.advance_ms(1);
  CHECK(io.completions == 1);
}

TEST_CASE("a release of what is not held, or of no number, is refused", "[fault]") {
  Rig rig;
  for (const json& tickets : {json::array({1}), json::array({"x"}), json::array({nullptr})}) {
    const auto reply = rig.call({{"op", "fault.release"}, {"tickets", tickets}});
    REQUIRE_FALSE(reply);
    CHECK(reply.error().code == Code::invalid);
  }
}

TEST_CASE("reordered writes go on in another order, all of them, and before a flush", "[fault]") {
  Rig rig;
  rig.add({{"id", "mix"}, {"when", {{"seed", "9"}}}, {"do", {{"kind", "reorder"}, {"depth", 8}}}});
  rig.gate->closed = true;
  std::vector<std::unique_ptr<Io>> all;
  const auto write = [&](uint64_t i) {
    all.push_back(std::make_unique<Io>(Op::write, i * 512, 512));
    rig.submit(*all.back());
  };
  for (uint64_t i = 0; i < 8; ++i) write(i);
  REQUIRE(rig.gate->held.size() == 8);
  std::vector<uint64_t> order;
  for (const Request* request : rig.gate->held) order.push_back(request->offset / 512);
  CHECK_FALSE(std::is_sorted(order.begin(), order.end()));
  std::sort(order.begin(), order.end());
  for (uint64_t i = 0; i < 8; ++i) CHECK(order[i] == i);
  rig.gate->open();
  rig.gate->closed = true;
  for (uint64_t i = 0; i < 3; ++i) write(i);
  CHECK(rig.gate->held.empty());
  Io flush(Op::flush, 0, 0);
  rig.submit(flush);
  REQUIRE(rig.gate->held.size() == 4);
  CHECK(rig.gate->held.back()->op == Op::flush);
  rig.gate->open();
  for (const auto& io : all) CHECK(io->completions == 1);
}

TEST_CASE("thousands of requests wait at once, each exactly as long as it must", "[fault]") {
  Rig rig;
  rig.add({{"id", "j"},
           {"when", {{"seed", "3"}}},
           {"do", {{"kind", "jitter"}, {"min_ms", 0.1}, {"max_ms", 10000}}}});
  std::vector<std::unique_ptr<Io>> all;
  for (int i = 0; i < 4096; ++i) {
    all.push_back(std::make_unique<Io>(Op::read, 0, 512));
    rig.submit(*all.back());
  }
  std::vector<uint64_t> due;
  const Chance chance = Chance::of_rule(3, "j");
  for (uint64_t i = 0; i < 4096; ++i)
    due.push_back(static_cast<uint64_t>((0.1 + chance.of(i).unit(1) * 9999.9) * k_ns_per_ms));
  uint64_t now = 0;
  for (const uint64_t at : {uint64_t{1'000'000}, uint64_t{777'777'777}, uint64_t{5'000'000'000},
                            uint64_t{9'999'999'999}, uint64_t{10'000'000'001}}) {
    rig.timers.advance_ns(at - now);
    now = at;
    for (size_t i = 0; i < all.size(); ++i)
      if ((all[i]->completions == 1) != (due[i] <= now)) FAIL_CHECK("request " << i);
  }
}

TEST_CASE("an action outlives its rule while a request needs it", "[fault]") {
  for (const char* kind :
       {R"({"kind":"corrupt_read"})", R"({"kind":"misdirect_read"})", R"({"kind":"medium"})"}) {
    Rig rig;
    rig.gate->closed = true;
    json rule = {{"match", {{"op", {"read"}}, {"ranges", {{2048, 512}}}}},
                 {"do", json::parse(kind)}};
    rig.add(rule);
    Io io(Op::read, 0, 8192);
    rig.submit(io);
    REQUIRE(rig.gate->held.size() == 1);
    rig.clear();
    rig.gate->open();
    CHECK(io.completions == 1);
  }
}

TEST_CASE("what a stale read would need cannot be read: the write goes on", "[fault]") {
  struct Unreadable final : Forward {
    using Forward::Forward;
    void submit(Request& request) override {
      if (request.op == Op::read) return request.done(request, EIO);
      lower().submit(request);
    }
  };
  ManualClock clock;
  ManualTimers timers(clock);
  Geometry geometry;
  geometry.size = k_rig_size;
  const std::vector<LayerSpec> layers = {{"fault", {}}};
  auto disk = *build_stack(std::make_unique<Unreadable>(*make_memory_disk(geometry)), layers,
                           {clock, timers, nullptr, 0}, true);
  REQUIRE(disk->control(*parse_json(R"({"op":"fault.add","rule":{"do":{"kind":"stale_read"}}})")));
  Io io(Op::write, 0, 512);
  disk->submit(io.request);
  CHECK(io.completions == 1);
  CHECK(io.error == 0);
}
