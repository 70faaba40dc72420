// SPDX-License-Identifier: MIT
// If this fails, a power cut loses other sectors of the write cache than it says, cannot be had
// again with its seed, or lets something happen after it that was asked for before.
#include <algorithm>
#include <cerrno>
#include <unistd.h>

#include "blk/layer/cache_survivors.hpp"
#include "blk/layer/layers.hpp"
#include "layer_rig.hpp"

namespace {

using namespace pv;
using namespace pv::test;

constexpr uint64_t k_cache_power_sector = 512;

json random_cut(const std::string& seed, uint64_t atomic = 0) {
  json request = {{"op", "cache.drop"}, {"survivors", "random"}, {"seed", seed}};
  if (atomic != 0) request["atomic_bytes"] = atomic;
  return request;
}

json listed_cut(const json& keep) {
  return {{"op", "cache.drop"}, {"survivors", "listed"}, {"keep", keep}};
}

// The sectors of [0, length) that are not zero, as a text of 0 and 1.
std::string alive(LayerRig& rig, uint64_t length) {
  std::string map;
  for (uint64_t at = 0; at < length; at += k_cache_power_sector)
    map += rig.read(at, k_cache_power_sector) == many('\0', k_cache_power_sector) ? '0' : '1';
  return map;
}

std::string why(const Result<json>& result) {
  return result ? "accepted" : result.error().message;
}

TEST_CASE("random survivors are those of the seed, in whatever order they were written",
          "[cache][power]") {
  const auto cut = [](const std::string& seed, bool backwards, uint64_t atomic) {
    LayerRig rig({"cache"});
    for (uint64_t i = 0; i < 64; ++i) {
      const uint64_t at = (backwards ? 63 - i : i) * 4096;
      CHECK(rig.write(at, many('a', 4096)) == 0);
    }
    const auto lost = rig.call(random_cut(seed, atomic));
    REQUIRE(lost);
    const std::string map = alive(rig, 64 * 4096);
    const auto kept =
        static_cast<uint64_t>(std::count(map.begin(), map.end(), '1')) * k_cache_power_sector;
    CHECK((*lost)["kept_bytes"] == kept);
    CHECK((*lost)["dropped_bytes"] == 64 * 4096 - kept);
    CHECK(rig.run(Op::flush) == 0);
    CHECK(rig.below->content(0, 64 * 4096) == rig.read(0, 64 * 4096));
    return map;
  };
  const std::string map = cut("7", false, 0);
  const auto kept = std::count(map.begin(), map.end(), '1');
  CHECK((kept > 180 && kept < 332));
  CHECK(cut("7", true, 0) == map);
  CHECK(cut("18446744073709551615", false, 0) != map);
  const std::string coarse = cut("7", false, 16'384);
  for (size_t at = 0; at < coarse.size(); at += 32)
    CHECK(coarse.substr(at, 32) == std::string(32, coarse[at]));
  CHECK_THAT(coarse, contains_text("0") && contains_text("1"));
}

TEST_CASE("of a block that is partly listed exactly those sectors survive", "[cache][power]") {
  LayerRig rig({"cache"});
  CHECK(rig.write(0, many('o', 16'384)) == 0);
  CHECK(rig.run(Op::flush) == 0);
  CHECK(rig.write(1024, many('n', 12'288)) == 0);
  const auto lost = rig.call(listed_cut({{0, 512}, {1536, 1024}, {2560, 512}, {12'288, 4096}}));
  REQUIRE(lost);
  CHECK((*lost)["kept_bytes"] == 1024 + 512 + 1024);
  CHECK((*lost)["dropped_bytes"] == 12'288 - 2560);
  const std::string expected =
      many('o', 1536) + many('n', 1536) + many('o', 9216) + many('n', 1024) + many('o', 3072);
  CHECK(rig.read(0, 16'384) == expected);
  CHECK(rig.run(Op::flush) == 0);
  CHECK(rig.below->content(0, 16'384) == expected);
}

TEST_CASE("of zeroes that are held some survive as well", "[cache][power]") {
  LayerRig rig({"cache"});
  CHECK(rig.write(0, many('o', 4096), k_fua) == 0);
  CHECK(rig.run(Op::zero, 0, 4096) == 0);
  REQUIRE(rig.call(listed_cut({{512, 512}})));
  CHECK(rig.run(Op::flush) == 0);
  CHECK(rig.below->content(0, 2048) == many('o', 512) + many('\0', 512) + many('o', 1024));
}

TEST_CASE("survivors that make no sense are refused, and nothing is lost", "[cache][power]") {
  Geometry geometry = LayerRig::small();
  geometry.sector_size = geometry.physical_sector_size = 4096;
  LayerRig rig({"cache"}, geometry);
  CHECK(rig.write(0, many('a', 4096)) == 0);
  CHECK_THAT(why(rig.call({{"op", "cache.drop"}, {"survivors", "some"}})), contains_text("'some'"));
  CHECK_THAT(why(rig.call(random_cut("x"))), contains_text("seed 'x' is not a 64-bit number"));
  CHECK_THAT(why(rig.call(random_cut("18446744073709551616"))),
             contains_text("not a 64-bit number"));
  CHECK_THAT(why(rig.call(random_cut("1", 512))), contains_text("not whole sectors of 4096"));
  CHECK_THAT(why(rig.call(listed_cut({{0, 512}}))), contains_text("not whole sectors of 4096"));
  CHECK_THAT(why(rig.call(listed_cut({{0, 0}}))), contains_text("not whole sectors"));
  CHECK_THAT(why(rig.call(listed_cut({{1 << 20, 4096}}))),
             contains_text("past the end of the disk"));
  CHECK_THAT(why(rig.call(listed_cut({{4096, UINT64_MAX - 4095}}))), contains_text("past the end"));
  CHECK_THAT(why(rig.call(listed_cut({{0}}))), contains_text("not a list of"));
  CHECK(rig.read(0, 4096) == many('a', 4096));
}

TEST_CASE("what is on its way below arrives; the younger copy of it is lost", "[cache][power]") {
  LayerRig rig({"cache"});
  CHECK(rig.write(0, many('a', 4096)) == 0);
  rig.below->closed = true;
  Io flush(Op::flush, 0, 0);
  rig.submit(flush);
  CHECK(rig.write(512, many('b', 512)) == 0);
  REQUIRE(rig.call({{"op", "cache.drop"}, {"survivors", "none"}}));
  CHECK(rig.read(0, 4096) == many('a', 4096));
  // A write after the cut must not be overtaken by what was on its way before it.
  CHECK(rig.write(1024, many('c', 512)) == 0);
  Io second(Op::flush, 0, 0);
  rig.submit(second);
  CHECK(rig.below->held.size() == 1);
  rig.below->open();
  CHECK(flush.error == EIO);
  CHECK(second.error == 0);
  CHECK(rig.below->content(0, 4096) == many('a', 1024) + many('c', 512) + many('a', 2560));
}

TEST_CASE("without power nothing is taken or begun; what was under way fails", "[cache][power]") {
  LayerRig rig({"cache"});
  CHECK(rig.write(0, many('a', 4096)) == 0);
  CHECK(rig.write(65'536, many('b', 4096)) == 0);
  rig.below->closed = true;
  Io through(Op::write, 131'072, 4096, k_fua), behind(Op::write, 131'072, 4096);
  Io flush(Op::flush, 0, 0);
  rig.submit(through);
  rig.submit(behind);
  REQUIRE(rig.call({{"op", "power.off"}, {"survivors", "all"}}));
  rig.submit(flush);
  CHECK(behind.error == ESHUTDOWN);
  CHECK(flush.error == ESHUTDOWN);
  CHECK(rig.write(0, many('c', 512)) == ESHUTDOWN);
  CHECK(rig.run(Op::discard, 0, 512) == ESHUTDOWN);
  CHECK(rig.read(0, 512) == "error " + std::to_string(ESHUTDOWN));
  CHECK(rig.below->held.size() == 1);
  rig.below->open();
  CHECK(through.error == 0);
  CHECK(rig.below->content(0, 4096) == many('\0', 4096));
  REQUIRE(rig.call({{"op", "power.on"}}));
  CHECK(rig.run(Op::flush) == 0);
  CHECK(rig.below->content(0, 4096) == many('a', 4096));
  CHECK(rig.below->content(65'536, 4096) == many('b', 4096));
  CHECK(rig.shown()["cache"]["held_bytes"] == 0);
}

TEST_CASE("a flush that the cut meets is torn: some blocks below, the rest lost",
          "[cache][power]") {
  LayerRig rig({"cache"});
  for (uint64_t i = 0; i < 40; ++i) CHECK(rig.write(i * 8192, many('a', 4096)) == 0);
  rig.below->closed = true;
  Io flush(Op::flush, 0, 0);
  rig.submit(flush);
  const size_t sent = rig.below->held.size();
  REQUIRE((sent > 0 && sent < 40));
  const auto lost = rig.call({{"op", "power.off"}, {"survivors", "none"}});
  REQUIRE(lost);
  CHECK((*lost)["kept_bytes"] == sent * 4096);
  CHECK((*lost)["dropped_bytes"] == (40 - sent) * 4096);
  CHECK(flush.error == ESHUTDOWN);
  rig.below->error = EIO;  // the last of them do not arrive
  rig.below->pass(*rig.below->held.back());
  rig.below->held.pop_back();
  rig.below->error = 0;
  rig.below->open();
  REQUIRE(rig.call({{"op", "power.on"}}));
  CHECK(rig.run(Op::flush) == 0);
  CHECK(rig.below->count(Op::flush) == 1);
  const std::string map = alive(rig, 40 * 8192);
  CHECK(std::count(map.begin(), map.end(), '1') == static_cast<long>((sent - 1) * 8));
}

TEST_CASE("all caches of a stack lose their power, a read cache over them forgets",
          "[cache][power]") {
  LayerRig rig({"readcache", "cache", "cache"});
  CHECK(rig.write(0, many('a', 4096)) == 0);
  CHECK(rig.run(Op::flush) == 0);
  CHECK(rig.write(0, many('b', 4096)) == 0);
  CHECK(rig.read(0, 4096) == many('b', 4096));
  CHECK(rig.read(0, 4096) == many('b', 4096));
  const auto lost = rig.call({{"op", "power.off"}, {"survivors", "none"}});
  REQUIRE(lost);
  CHECK((*lost)["dropped_bytes"] == 4096);
  REQUIRE(rig.call({{"op", "power.on"}}));
  CHECK(rig.read(0, 4096) == many('a', 4096));
}

struct Refusing final : Forward {
  using Forward::Forward;
  Result<json> control(const json&) override { return fail(Code::io, "not now"); }
};

TEST_CASE("a cut that the disk below refuses has not happened", "[cache][power]") {
  ManualClock clock;
  ManualTimers timers(clock);
  auto cache = *make_cache(std::make_unique<Refusing>(*make_memory_disk(LayerRig::small())),
                           *parse_layer("cache"), {clock, timers});
  Io write(Op::write, 0, 512), again(Op::write, 0, 512);
  cache->submit(write.request);
  CHECK_FALSE(cache->control({{"op", "power.off"}, {"survivors", "none"}}));
  cache->submit(again.request);
  CHECK(again.error == 0);
  CHECK(cache->control({{"op", "cache.held"}}));
}

TEST_CASE("a stack without anything volatile does not know of power", "[cache][power]") {
  LayerRig rig({"readcache", "stats"});
  const auto off = rig.call({{"op", "power.off"}, {"survivors", "none"}});
  REQUIRE_FALSE(off);
  CHECK(off.error().code == Code::unsupported);
}

// Whatever was flushed is there after a cut, and every other sector holds its flushed or its last
// content.
TEST_CASE("random cuts never lose what was flushed and invent nothing", "[cache][power]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(mix(seed, 78));
  LayerRig rig({"cache:size=64K"});
  std::string now(1 << 18, '\0');
  std::vector<std::string> old(now.size() /
                               k_cache_power_sector);  // per sector: contents since the flush
  const auto at_sector = [&](size_t i) {
    return now.substr(i * k_cache_power_sector, k_cache_power_sector);
  };
  for (int step = 0; step < 3000; ++step) {
    const uint64_t at = rng.below(400) * k_cache_power_sector,
                   length = (1 + rng.below(20)) * k_cache_power_sector;
    const uint64_t kind = rng.below(20);
    if (kind < 16) {
      const std::string bytes = random_bytes(rng, length);
      for (uint64_t i = at / k_cache_power_sector; i < (at + length) / k_cache_power_sector; ++i)
        old[i] += at_sector(i);
      REQUIRE(rig.write(at, bytes, kind == 0 ? k_fua : 0U) == 0);
      now.replace(at, length, bytes);
    } else if (kind < 18) {
      REQUIRE(rig.run(Op::flush) == 0);
      old.assign(old.size(), "");
    } else {
      REQUIRE(rig.call(random_cut(std::to_string(rng.next()), kind == 18 ? 4096 : 0)));
      const std::string after = rig.read(0, now.size());
      for (size_t i = 0; i < old.size(); ++i) {
        const std::string got = after.substr(i * k_cache_power_sector, k_cache_power_sector);
        bool known = got == at_sector(i);
        for (size_t n = 0; n < old[i].size(); n += k_cache_power_sector)
          known = known || old[i].compare(n, k_cache_power_sector, got) == 0;
        if (!known) FAIL("sector " << i << " holds what it should not, step " << step);
      }
      now = after;
      REQUIRE(rig.run(Op::flush) == 0);
      old.assign(old.size(), "");
    }
  }
}

}  // namespace
