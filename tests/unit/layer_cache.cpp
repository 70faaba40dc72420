// SPDX-License-Identifier: MIT
// If this fails, the write cache loses data that was flushed, keeps data that should be lost, or
// shows a reader something that was never on the disk.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <unistd.h>

#include "layer_rig.hpp"

namespace {

using namespace pv;
using namespace pv::test;

TEST_CASE("a write stays in the cache until a flush, and is read from there", "[cache]") {
  LayerRig rig({"cache"});
  CHECK(rig.write(512, many('a', 1024)) == 0);
  CHECK(rig.below->seen.empty());
  CHECK(rig.read(512, 1024) == many('a', 1024));
  CHECK(rig.below->seen.empty());
  CHECK(rig.read(0, 2048) == many('\0', 512) + many('a', 1024) + many('\0', 512));
  CHECK(rig.below->content(512, 1024) == many('\0', 1024));
  rig.below->seen.clear();
  CHECK(rig.run(Op::flush) == 0);
  CHECK(rig.below->seen ==
        std::vector<Probe::Seen>{{Op::write, 512, 1024, 0}, {Op::flush, 0, 0, 0}});
  CHECK(rig.below->content(512, 1024) == many('a', 1024));
  CHECK(rig.shown()["cache"]["held_bytes"] == 0);
}

TEST_CASE("a flush writes back in the order of the writes, neighbours in one piece", "[cache]") {
  LayerRig rig({"cache"});
  for (const uint64_t at : {65'536, 69'632, 73'728, 4096, 8192, 0})
    CHECK(rig.write(at, many('x', 4096)) == 0);
  CHECK(rig.write(65'536, many('y', 4096)) == 0);
  CHECK(rig.run(Op::flush) == 0);
  CHECK(rig.below->seen == std::vector<Probe::Seen>{{Op::write, 65'536, 12'288, 0},
                                                    {Op::write, 4096, 8192, 0},
                                                    {Op::write, 0, 4096, 0},
                                                    {Op::flush, 0, 0, 0}});
  CHECK(rig.below->content(65'536, 4096) == many('y', 4096));
}

TEST_CASE("only what was written goes below, not what lies between", "[cache]") {
  LayerRig rig({"cache"});
  CHECK(rig.write(0, many('a', 512)) == 0);
  CHECK(rig.write(1024, many('b', 1024)) == 0);
  CHECK(rig.run(Op::zero, 3584, 512) == 0);
  CHECK(rig.run(Op::zero, 8192, 4096, k_no_unmap) == 0);
  CHECK(rig.run(Op::flush) == 0);
  CHECK(rig.below->seen == std::vector<Probe::Seen>{{Op::write, 0, 512, 0},
                                                    {Op::write, 1024, 1024, 0},
                                                    {Op::write, 3584, 512, 0},
                                                    {Op::zero, 8192, 4096, k_no_unmap},
                                                    {Op::flush, 0, 0, 0}});
}

TEST_CASE("FUA reaches the disk below alone, and replaces what was held", "[cache]") {
  LayerRig rig({"cache"});
  CHECK(rig.write(0, many('a', 8192)) == 0);
  CHECK(rig.write(4096, many('b', 4096), k_fua) == 0);
  CHECK(rig.below->seen == std::vector<Probe::Seen>{{Op::write, 4096, 4096, k_fua}});
  CHECK(rig.below->content(0, 8192) == many('\0', 4096) + many('b', 4096));
  CHECK(rig.read(0, 8192) == many('a', 4096) + many('b', 4096));
  rig.call({{"op", "cache.drop"}, {"survivors", "none"}});
  CHECK(rig.read(0, 8192) == many('\0', 4096) + many('b', 4096));
}

TEST_CASE("what fails to be written back reaches the flush and stays", "[cache]") {
  LayerRig rig({"cache"});
  CHECK(rig.write(0, many('a', 4096)) == 0);
  CHECK(rig.write(40'960, many('b', 512)) == 0);
  rig.below->error = ENOSPC;
  CHECK(rig.run(Op::flush) == ENOSPC);
  CHECK(rig.run(Op::flush) == ENOSPC);
  CHECK(rig.read(0, 4096) == many('a', 4096));
  CHECK(rig.below->count(Op::flush) == 0);
  rig.below->error = 0;
  CHECK(rig.run(Op::flush) == 0);
  CHECK(rig.below->content(0, 4096) == many('a', 4096));
  CHECK(rig.below->content(40'960, 512) == many('b', 512));
  CHECK(rig.shown()["cache"]["held_bytes"] == 0);
}

TEST_CASE("an error of the flush below reaches the flush", "[cache]") {
  LayerRig rig({"cache"});
  rig.below->failing_op = Op::flush;
  rig.below->error = EIO;
  CHECK(rig.write(0, many('a', 512)) == 0);
  CHECK(rig.run(Op::flush) == EIO);
  CHECK(rig.run(Op::flush) == EIO);
}

TEST_CASE("a full cache writes back early and goes on", "[cache]") {
  LayerRig rig({"cache:size=64K"});
  for (uint64_t i = 0; i < 64; ++i)
    CHECK(rig.write(i * 8192, many(static_cast<char>('A' + i), 4096)) == 0);
  CHECK(rig.below->count(Op::write) >= 48);
  CHECK(rig.below->count(Op::flush) == 0);
  CHECK(rig.shown()["cache"]["held_bytes"] <= 65'536);
  for (uint64_t i = 0; i < 64; ++i)
    CHECK(rig.read(i * 8192, 4096) == many(static_cast<char>('A' + i), 4096));
}

TEST_CASE("a full cache that cannot be written back refuses more, and recovers", "[cache]") {
  LayerRig rig({"cache:size=64K"});
  rig.below->error = EIO;
  for (uint64_t i = 0; i < 16; ++i) CHECK(rig.write(i * 8192, many('a', 4096)) == 0);
  CHECK(rig.write(900'000 / 4096 * 4096, many('b', 4096)) == EIO);
  CHECK(rig.write(0, many('c', 4096)) == 0);  // has its place already
  CHECK(rig.run(Op::flush) == EIO);
  rig.below->error = 0;
  CHECK(rig.write(900'000 / 4096 * 4096, many('b', 4096)) == 0);
  CHECK(rig.run(Op::flush) == 0);
  CHECK(rig.below->content(0, 4096) == many('c', 4096));
}

TEST_CASE("a write to what is on its way below waits for nothing and tears nothing", "[cache]") {
  LayerRig rig({"cache"});
  CHECK(rig.write(0, many('a', 4096)) == 0);
  rig.below->closed = true;
  Io flush(Op::flush, 0, 0);
  rig.submit(flush);
  REQUIRE(rig.below->held.size() == 1);
  CHECK(rig.write(512, many('b', 512)) == 0);
  CHECK(rig.read(0, 4096) == many('a', 512) + many('b', 512) + many('a', 3072));
  Io second(Op::flush, 0, 0);
  rig.submit(second);
  CHECK(rig.below->held.size() == 1);  // the younger block waits for the older
  rig.below->open();
  CHECK(flush.error == 0);
  CHECK(second.error == 0);
  CHECK(rig.below->content(0, 4096) == many('a', 512) + many('b', 512) + many('a', 3072));
}

TEST_CASE("an older block that fails leaves its data to the younger one", "[cache]") {
  LayerRig rig({"cache"});
  CHECK(rig.write(0, many('a', 4096)) == 0);
  rig.below->closed = true;
  Io flush(Op::flush, 0, 0);
  rig.submit(flush);
  CHECK(rig.write(512, many('b', 512)) == 0);
  rig.below->error = EIO;
  rig.below->open();
  CHECK(flush.error == EIO);
  rig.below->error = 0;
  CHECK(rig.run(Op::flush) == 0);
  CHECK(rig.below->content(0, 4096) == many('a', 512) + many('b', 512) + many('a', 3072));
}

TEST_CASE("a read that races with a write-back sees the new data", "[cache]") {
  LayerRig rig({"cache"});
  CHECK(rig.write(0, many('a', 512)) == 0);
  // The disk below answers the read with what it has before the write-back, but late.
  rig.below->closed = true;
  Io read(Op::read, 0, 4096), map(Op::map, 0, 4096);
  rig.submit(read);
  rig.submit(map);
  std::vector<Request*> early = std::exchange(rig.below->held, {});
  rig.below->closed = false;
  CHECK(rig.run(Op::flush) == 0);
  for (const iovec& piece : read.pieces) std::memset(piece.iov_base, 0, piece.iov_len);
  early[1]->extents->push_back({4096, k_hole | k_zero});
  for (Request* request : early) request->done(*request, 0);
  CHECK(read.bytes() == many('a', 512) + many('\0', 3584));
  REQUIRE(map.extents.size() == 1);
  CHECK(map.extents[0].flags == 0);
}

TEST_CASE("a discard drops what is held, unless the disk below ignores it", "[cache]") {
  Geometry geometry = LayerRig::small();
  {
    LayerRig rig({"cache"}, geometry);
    CHECK(rig.write(0, many('a', 4096)) == 0);
    CHECK(rig.run(Op::discard, 512, 1024) == 0);
    CHECK(rig.read(0, 4096) == many('a', 512) + many('\0', 1024) + many('a', 2560));
    rig.below->failing_op = Op::discard;
    rig.below->error = EIO;
    CHECK(rig.run(Op::discard, 0, 4096) == EIO);
    CHECK(rig.read(0, 512) == many('a', 512));
  }
  geometry.discard = DiscardBehaviour::ignored;
  {
    LayerRig rig({"cache"}, geometry);
    CHECK(rig.write(0, many('a', 4096)) == 0);
    CHECK(rig.run(Op::discard, 0, 4096) == 0);
    CHECK(rig.read(0, 4096) == many('a', 4096));
  }
}

TEST_CASE("changes wait for an overlapping one that goes through", "[cache]") {
  LayerRig rig({"cache"});
  CHECK(rig.write(0, many('a', 4096)) == 0);
  rig.below->closed = true;
  Io through(Op::write, 0, 4096, k_fua), later(Op::write, 512, 512), apart(Op::write, 8192, 512);
  std::fill(through.data.begin(), through.data.end(), 'b');
  std::fill(later.data.begin(), later.data.end(), 'c');
  rig.submit(through);
  rig.submit(later);
  rig.submit(apart);
  CHECK(later.completions == 0);
  CHECK(rig.read(0, 512) == many('a', 512));  // the old data until the new one is there
  Io flush(Op::flush, 0, 0);
  rig.submit(flush);
  CHECK(rig.below->held.size() == 1);  // the old data must not arrive after the new
  rig.below->open();
  CHECK((through.error == 0 && later.error == 0 && apart.error == 0 && flush.error == 0));
  CHECK(rig.read(0, 4096) == many('b', 512) + many('c', 512) + many('b', 3072));
  CHECK(rig.run(Op::flush) == 0);
  CHECK(rig.below->content(0, 4096) == many('b', 512) + many('c', 512) + many('b', 3072));
}

TEST_CASE("the map shows what is held as data", "[cache]") {
  LayerRig rig({"cache"});
  CHECK(rig.write(131'072, many('a', 512)) == 0);
  CHECK(rig.run(Op::zero, 262'144, 4096) == 0);
  Io map(Op::map, 0, 1 << 20);
  rig.submit(map);
  std::string text;
  for (const Extent& extent : map.extents)
    text += std::to_string(extent.length) + ":" + std::to_string(extent.flags) + " ";
  CHECK(text == "131072:3 512:0 130560:3 4096:2 782336:3 ");
  Io one(Op::map, 131'072, 4096, k_one);
  rig.submit(one);
  REQUIRE(one.extents.size() == 1);
  CHECK(one.extents[0].length == 512);
}

TEST_CASE("a dropped cache shows the old disk; survivors all keeps the new", "[cache]") {
  LayerRig rig({"cache"});
  CHECK(rig.write(0, many('a', 4096)) == 0);
  const auto lost = rig.call({{"op", "cache.drop"}, {"survivors", "none"}});
  REQUIRE(lost);
  CHECK((*lost)["dropped_bytes"] == 4096);
  CHECK(rig.read(0, 4096) == many('\0', 4096));
  CHECK(rig.run(Op::flush) == 0);
  CHECK(rig.below->content(0, 4096) == many('\0', 4096));
  CHECK(rig.write(0, many('b', 4096)) == 0);
  REQUIRE(rig.call({{"op", "cache.drop"}, {"survivors", "all"}}));
  CHECK(rig.below->content(0, 4096) == many('b', 4096));
  CHECK_FALSE(rig.call({{"op", "cache.drop"}, {"survivors", "some"}}));
}

TEST_CASE("a drop fails the flush whose data it loses", "[cache]") {
  LayerRig rig({"cache"});
  CHECK(rig.write(0, many('a', 4096)) == 0);
  CHECK(rig.write(65'536, many('a', 4096)) == 0);
  rig.below->closed = true;
  Io flush(Op::flush, 0, 0);
  rig.submit(flush);
  REQUIRE(rig.call({{"op", "cache.drop"}, {"survivors", "none"}}));
  rig.below->open();
  CHECK(flush.error == EIO);
}

TEST_CASE("the size of the cache is checked, and changes while it runs", "[cache]") {
  CHECK_THAT(refusal("cache:size=1K"), contains_text("size=1K is not a size from 64K to 64G"));
  CHECK_THAT(refusal("cache:size=x"), contains_text("size=x"));
  CHECK_THAT(refusal("cache:limit=1M"), contains_text("no key 'limit' (keys: size)"));
  LayerRig rig({"cache:size=1M"});
  for (uint64_t i = 0; i < 64; ++i) CHECK(rig.write(i * 8192, many('a', 4096)) == 0);
  CHECK(rig.below->seen.empty());
  REQUIRE(rig.call({{"op", "layer.set"}, {"layer", "cache"}, {"params", {{"size", "64K"}}}}));
  CHECK(rig.shown()["cache"]["held_bytes"] == 65'536);
  CHECK_FALSE(rig.call({{"op", "layer.set"}, {"layer", "cache"}, {"params", {{"size", "1"}}}}));
  CHECK_FALSE(rig.call({{"op", "layer.set"}, {"layer", "cache"}, {"params", {{"ms", "1"}}}}));
}

// A model of bytes: whatever is done, in whatever order things complete below, a reader sees the
// last write, and after a flush the disk below has it.
TEST_CASE("the cache agrees with a model under random requests", "[cache]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(mix(seed, 77));
  for (int round = 0; round < 20; ++round) {
    LayerRig rig({"cache:size=64K"});
    std::string model(1 << 20, '\0');
    for (int i = 0; i < 400; ++i) {
      const uint64_t at = rng.below(300) * 512, length = (1 + rng.below(40)) * 512;
      const uint32_t flags = rng.below(6) == 0 ? k_fua : 0U;
      const uint64_t kind = rng.below(12);
      rig.below->error = rng.below(8) == 0 ? EIO : 0;
      if (kind < 5) {
        const std::string bytes = random_bytes(rng, length);
        const int error = rig.write(at, bytes, flags);
        if (error == 0) model.replace(at, length, bytes);
      } else if (kind < 8) {
        const Op op = kind == 5 ? Op::discard : Op::zero;
        if (rig.run(op, at, length, flags) == 0) model.replace(at, length, length, '\0');
      } else if (kind == 8) {
        if (rig.run(Op::flush) == 0 && rig.below->content(0, model.size()) != model)
          FAIL("flushed data is not below");
      } else if (rig.read(at, length) != model.substr(at, length)) {
        FAIL("a read differs from the model");
      }
    }
    CHECK(rig.read(0, model.size()) == model);
  }
}

}  // namespace
