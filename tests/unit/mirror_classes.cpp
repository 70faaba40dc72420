// SPDX-License-Identifier: MIT
// If this fails, a mirror names the wrong kind of damage, the wrong leg or the wrong writer.
#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include <fmt/format.h>

#include "blk/mirror/writes.hpp"
#include "mirror_rig.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

namespace {

constexpr uint64_t k_block = 4096;
constexpr uint64_t k_blocks = 256;  // of the disk

// $PV_MIRROR_INJECTIONS, for a longer run.
uint64_t injections() {
  const char* given = getenv("PV_MIRROR_INJECTIONS");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : 500;
}

// One kind of fault, what it has to be called, and whether it harms a write.
struct Injection {
  const char* damage;
  json fault;
  bool writes;
};

const std::vector<Injection>& kinds() {
  static const std::vector<Injection> table = {
      {"stale", {{"kind", "drop_write"}}, true},
      {"torn", {{"kind", "torn_write"}, {"keep", "random"}}, true},
      {"torn", {{"kind", "torn_write"}, {"keep", "first"}}, true},
      {"misdirected", {{"kind", "misdirect_write"}, {"shift_bytes", 64 * k_block}}, true},
      {"misdirected", {{"kind", "misdirect_read"}, {"shift_bytes", 64 * k_block}}, false},
      {"zeroed", {{"kind", "corrupt_read"}, {"pattern", "zeroes"}}, false},
      {"zeroed", {{"kind", "corrupt_write"}, {"pattern", "zeroes"}}, true},
      {"bit_flip", {{"kind", "corrupt_read"}, {"pattern", "bit"}}, false},
      {"bit_flip", {{"kind", "corrupt_write"}, {"pattern", "bit"}, {"count", 3}}, true},
  };
  return table;
}

// Keeps who has written each block last, as the mirror should know it.
struct MirrorWorld {
  MirrorRig rig;
  Rng rng;
  uint64_t requests = 0;
  std::array<uint64_t, k_blocks> writer{};

  explicit MirrorWorld(uint64_t seed) : rng(seed) {
    // Two generations of everything: there is something older to be found.
    for (int round = 0; round < 2; ++round)
      for (uint64_t block = 0; block < k_blocks; ++block) write(block);
  }
  void write(uint64_t block) {
    REQUIRE(rig.write(block * k_block, random_bytes(rng, k_block)) == 0);
    writer[block] = ++requests;
  }
  std::string read(uint64_t block) {
    ++requests;
    return rig.read(block * k_block, k_block);
  }
  void inject(const Injection& kind, uint64_t number) {
    json rule = {{"id", "r" + std::to_string(number)},
                 {"match", {{"op", json::array({kind.writes ? "write" : "read"})}}},
                 {"when", {{"times", 1}}},
                 {"do", kind.fault}};
    rig.fault(rule);
  }
};

struct Score {
  uint64_t injected = 0, right_class = 0, right_writer = 0, right_rule = 0, right_leg = 0;
};

}  // namespace

TEST_CASE("injected damage gets its class, its rule and its last writer", "[mirror]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  MirrorWorld world(seed);
  std::map<std::string, Score> scores;
  Score all;
  for (uint64_t i = 0; i < injections(); ++i) {
    const Injection& kind = kinds()[i % kinds().size()];
    const bool elsewhere = std::string(kind.fault["kind"]) == "misdirect_write";
    const uint64_t block = world.rng.below(k_blocks - 64);
    const uint64_t hit = elsewhere ? block + 64 : block;
    const std::string rule = "r" + std::to_string(i % 100);
    world.inject(kind, i % 100);
    const uint64_t before = world.rig.status()["events"].get<uint64_t>();
    if (kind.writes) world.write(block);
    const uint64_t last = world.writer[hit];
    const std::string given = world.read(hit);
    Score& score = scores[kind.damage];
    for (Score* s : {&score, &all}) ++s->injected;
    REQUIRE(world.rig.status()["events"].get<uint64_t>() == before + 1);
    const json found = world.rig.last();
    for (Score* s : {&score, &all}) {
      s->right_class += found["class"] == kind.damage ? 1 : 0;
      s->right_leg += found["suspect"] == "test" ? 1 : 0;
      s->right_writer += found["last_writer"]["test"]["number"] == last &&
                                 found["last_writer"]["reference"]["number"] == last
                             ? 1
                             : 0;
      const json& writer = found["last_writer"]["test"];
      const bool named = kind.writes
                             ? elsewhere || writer["rule"] == rule
                             : found["rule"]["id"] == rule && found["rule"]["leg"] == "test";
      s->right_rule += named ? 1 : 0;
    }
    if (found["class"] != kind.damage)
      UNSCOPED_INFO("injection " << i << ", " << kind.fault << ": " << found["class"]);
    if (found["class"] == "misdirected" && elsewhere)
      CHECK(found["from"]["offset_bytes"] == block * k_block);
    // The guest got what the reference has, and the damage is mended for the next round.
    Io truth(Op::read, hit * k_block, k_block);
    world.rig.reference->submit(truth.request);
    CHECK(given == truth.bytes());
    REQUIRE(world.rig.call({{"op", "fault.clear"}, {"id", rule}}));
    for (const uint64_t mended : {block, hit}) world.write(mended);
  }
  for (const auto& [name, score] : scores)
    UNSCOPED_INFO(name << ": " << score.right_class << " of " << score.injected);
  CHECK(all.right_class * 100 >= all.injected * 99);
  CHECK(all.right_writer == all.injected);
  CHECK(all.right_leg == all.injected);
  CHECK(all.right_rule == all.injected);
}

TEST_CASE("a reference that is the damaged one is suspected", "[mirror]") {
  MirrorRig rig;
  Rng rng(7);
  REQUIRE(rig.write(8192, random_bytes(rng, 4096)) == 0);
  REQUIRE(rig.write_to(*rig.reference, 8192 + 512, many('x', 512)) == 0);
  rig.read(8192, 4096);
  CHECK(rig.last()["suspect"] == "reference");
  CHECK(rig.last()["ranges"][0] == json({{"offset_bytes", 8704}, {"length_bytes", 512}}));
}

TEST_CASE("a first write that is lost leaves what was read before: stale", "[mirror]") {
  for (const bool was_read : {true, false}) {
    MirrorRig rig;
    Rng rng(11);
    const std::string old = random_bytes(rng, 8192);
    for (Disk* leg : {static_cast<Disk*>(rig.test), static_cast<Disk*>(rig.reference)})
      REQUIRE(rig.write_to(*leg, 65536, old) == 0);
    if (was_read) rig.read(65536, 8192);
    rig.fault({{"id", "lost"},
               {"when", {{"times", 1}}},
               {"match", {{"op", {"write"}}}},
               {"do", {{"kind", "drop_write"}}}});
    REQUIRE(rig.write(65536, random_bytes(rng, 4096)) == 0);
    rig.read(65536, 8192);
    CHECK(rig.last()["class"] == (was_read ? "stale" : "other"));
    CHECK(rig.last()["suspect"] == "test");
    CHECK_FALSE(rig.last().contains("version"));
  }
}

TEST_CASE("rules that no kept write names any more make room for others", "[mirror]") {
  MirrorRig rig;
  const auto lost = [&](int i) {
    rig.fault({{"id", "r" + std::to_string(i)},
               {"match", {{"op", {"write"}}}},
               {"do", {{"kind", "drop_write"}}}});
    REQUIRE(rig.write(0, many('a', 512)) == 0);
    REQUIRE(rig.call({{"op", "fault.clear"}, {"id", "r" + std::to_string(i)}}));
  };
  for (int i = 0; i < 300; ++i) lost(i);
  for (uint64_t i = 0; i <= Writes::k_writes; ++i) REQUIRE(rig.write(4096, many('b', 512)) == 0);
  lost(1000);
  rig.read(0, 512);
  CHECK(rig.last()["last_writer"]["test"]["rule"] == "r1000");
}

TEST_CASE("the ranges of a mismatch are exact to the byte", "[mirror]") {
  MirrorRig rig;
  REQUIRE(rig.write(0, many('a', 8192)) == 0);
  std::string changed = many('a', 8192);
  changed[3] = 'b';
  changed.replace(5000, 100, many('c', 100));
  REQUIRE(rig.write_to(*rig.test, 0, changed) == 0);
  CHECK(rig.read(0, 8192) == many('a', 8192));
  const json found = rig.last();
  CHECK(found["ranges"] == json::array({{{"offset_bytes", 3}, {"length_bytes", 1}},
                                        {{"offset_bytes", 5000}, {"length_bytes", 100}}}));
  CHECK(found["different_bytes"] == 101);
  CHECK(base64_decode(found["excerpt"]["test_b64"].get<std::string>())->substr(0, 5) == "aaaba");
}

TEST_CASE("one read over the damage of several writes has a finding for each", "[mirror]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  MirrorWorld world(seed);
  const auto spoil = [&](uint64_t block, const json& fault) {
    world.inject({"", fault, true}, block);
    world.write(block);
    REQUIRE(world.rig.call({{"op", "fault.clear"}, {"id", "r" + std::to_string(block)}}));
  };
  spoil(3, {{"kind", "drop_write"}});
  spoil(4, {{"kind", "corrupt_write"}, {"pattern", "bit"}});
  spoil(6, {{"kind", "misdirect_write"}, {"shift_bytes", 3 * k_block}});
  spoil(12, {{"kind", "corrupt_write"}, {"pattern", "zeroes"}});
  spoil(13, {{"kind", "corrupt_write"}, {"pattern", "zeroes"}});
  const uint64_t before = world.rig.status()["events"].get<uint64_t>();
  world.rig.read(0, 16 * k_block);
  std::vector<std::string> told;
  for (const json& one : world.rig.after(before))
    told.push_back(fmt::format("{} {} {}", one["class"].get<std::string>(),
                               one["ranges"][0]["offset_bytes"].get<uint64_t>() / k_block,
                               one["last_writer"]["test"]["number"].get<uint64_t>()));
  const auto line = [&](const char* kind, uint64_t block) {
    return fmt::format("{} {} {}", kind, block, world.writer[block]);
  };
  world.writer[12] = world.writer[13];  // one range, written last there
  CHECK(told == std::vector<std::string>{line("stale", 3), line("bit_flip", 4), line("stale", 6),
                                         line("misdirected", 9), line("zeroed", 12)});
}

TEST_CASE("a writer that is forgotten is named by the area, not wrongly", "[mirror]") {
  Geometry geometry = LayerRig::small();
  MirrorRig rig("", geometry, false);
  REQUIRE(rig.write(0, many('a', 512)) == 0);
  for (uint64_t i = 0; i <= Writes::k_writes; ++i)
    REQUIRE(rig.write(512 * 1024 + i % 64 * 512, many('b', 512)) == 0);
  REQUIRE(rig.write_to(*rig.test, 0, many('x', 512)) == 0);
  rig.read(0, 512);
  const json writer = rig.last()["last_writer"]["test"];
  CHECK(writer["exact"] == false);
  CHECK(writer["number"] == 1);
}

TEST_CASE("statuses that differ are a kind of their own, and a rule is known", "[mirror]") {
  MirrorRig rig;
  rig.test->error = EIO;
  CHECK(rig.read(0, 512) == many('\0', 512));  // the reference's
  CHECK(rig.last()["kind"] == "status");
  CHECK(rig.last()["status"] == json({{"test", "EIO"}, {"reference", "OK"}}));
  rig.reference->error = EIO;
  CHECK(rig.read(0, 512) == "error " + std::to_string(EIO));
  CHECK(rig.findings().size() == 1);
  rig.test->error = 0;
  CHECK(rig.write(0, many('x', 512)) == 0);
  CHECK(rig.status()["status_differences"] == 2);
  rig.reference->error = 0;
  rig.fault({{"id", "bad"}, {"match", {{"op", {"read"}}}}, {"do", {{"kind", "error"}}}});
  rig.read(4096, 512);
  CHECK(rig.last()["rule"] == json({{"leg", "test"}, {"id", "bad"}}));
  CHECK(rig.status()["status_differences"] == 2);
  CHECK(rig.status()["status_differences_by_rule"] == 1);
}

TEST_CASE("what is answered on a mismatch is the policy's", "[mirror]") {
  const auto damaged = [](const char* keys) {
    auto rig = std::make_unique<MirrorRig>(keys);
    REQUIRE(rig->write(0, many('a', 512)) == 0);
    REQUIRE(rig->write_to(*rig->test, 0, many('x', 512)) == 0);
    return rig;
  };
  CHECK(damaged("")->read(0, 512) == many('a', 512));
  CHECK(damaged(",on-mismatch=eio")->read(0, 512) == "error " + std::to_string(EIO));
  auto rig = damaged(",on-mismatch=hold,hold=10s");
  Io one(Op::read, 0, 512), two(Op::read, 0, 512), three(Op::read, 0, 512);
  for (Io* io : {&one, &two, &three}) rig->disk->submit(io->request);
  CHECK(one.completions + two.completions + three.completions == 0);
  const json held = (*rig->call({{"op", "verify.held"}}))["held"];
  REQUIRE(held.size() == 3);
  CHECK(held[0]["op"] == "read");
  CHECK_FALSE(rig->call({{"op", "verify.release"}, {"tickets", {99}}}));
  REQUIRE(rig->call({{"op", "verify.release"}, {"tickets", {1}}}));
  CHECK(one.bytes() == many('a', 512));
  REQUIRE(rig->call({{"op", "verify.release"}, {"tickets", {2}}, {"error", "EIO"}}));
  CHECK(two.error == EIO);
  rig->timers.advance_ns(11 * k_ns_per_s);
  CHECK(three.completions == 1);
  auto stop = damaged(",on-mismatch=stop_vm");
  Io waits(Op::read, 0, 512);
  stop->disk->submit(waits.request);
  CHECK(waits.completions == 0);
  CHECK((*stop->call({{"op", "verify.stop_wanted"}}))["wanted"] == true);
  CHECK((*stop->call({{"op", "verify.stop_wanted"}}))["wanted"] == false);
  REQUIRE(stop->call({{"op", "verify.stopped"}}));
  CHECK(waits.bytes() == many('a', 512));
}

TEST_CASE("legs that cannot be compared are refused", "[mirror]") {
  const auto refused = [](Geometry test, Geometry reference, const char* keys) {
    struct One final : Opener {
      Geometry geometry;
      Result<std::unique_ptr<Disk>> image(const std::string&, bool, const std::string&) override {
        auto disk = *make_memory_disk(geometry);
        Io io(Op::write, 4096, 512);
        std::fill(io.data.begin(), io.data.end(), 'x');
        disk->submit(io.request);
        return disk;
      }
      Result<AsyncIo*> async_io() override { return fail(Code::bug, "none"); }
    } opener;
    opener.geometry = reference;
    ManualClock clock;
    ManualTimers timers(clock);
    const LayerSpec spec = *parse_layer(std::string("mirror:with=b") + keys);
    auto built = build_stack(*make_memory_disk(test), {&spec, 1},
                             {clock, timers, nullptr, 0, &opener}, true);
    return built ? "taken"
                 : std::string(code_name(built.error().code)) + ": " + built.error().message;
  };
  const Geometry small = LayerRig::small();
  Geometry large = small;
  large.size *= 2;
  CHECK_THAT(refused(small, large, ""), contains_text("different size"));
  CHECK_THAT(refused(small, small, ""), contains_text("at byte 4096"));
  CHECK(refused(small, small, ",identical=assume") == "taken");
  for (const char* keys : {",on-mismatch=panic", ",hold=0", ",scrub=x", ",identical=maybe",
                           ",journal=1", ",nosuch=1"}) {
    INFO(keys);
    CHECK(refused(small, small, keys).substr(0, 5) == "usage");
  }
}

TEST_CASE("a scrub finds what nobody reads, and leaves busy disks alone", "[mirror]") {
  MirrorRig rig(",scrub=8M");
  REQUIRE(rig.write(700'416, many('a', 4096)) == 0);
  REQUIRE(rig.write_to(*rig.test, 700'416, many('b', 512)) == 0);
  for (int i = 0; i < 50; ++i) rig.timers.advance_ns(20 * k_ns_per_ms);
  REQUIRE_FALSE(rig.findings().empty());
  CHECK(rig.last()["request"]["scrub"] == true);
  CHECK(rig.last()["ranges"][0]["offset_bytes"] == 700'416);
  for (int i = 0; i < 100; ++i) rig.timers.advance_ns(20 * k_ns_per_ms);
  CHECK(rig.findings().size() == 1);
  REQUIRE(rig.write(700'416, many('a', 4096)) == 0);
  REQUIRE(rig.write_to(*rig.test, 700'416, many('b', 512)) == 0);
  for (int i = 0; i < 50; ++i) rig.timers.advance_ns(20 * k_ns_per_ms);
  CHECK(rig.findings().size() == 2);
}
