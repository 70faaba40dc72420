// SPDX-License-Identifier: MIT
// If this fails, a mirror of legs that discard in different ways ends with different legs, so that
// it is refused when it is started again, or does not say what it leaves out.
#include <cerrno>

#include "blk/mirror/undefined.hpp"
#include "mirror_rig.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

namespace {

// Gives back whole granules only, and what is in them then is anything but zeroes.
constexpr const char* k_noisy = "discard:behaviour=unspecified,granularity=4K,noise=7";

std::string content(Disk& leg, uint64_t offset, uint64_t length) {
  Io io(Op::read, offset, length);
  leg.submit(io.request);
  return io.bytes();
}

int discard(MirrorRig& rig, uint64_t offset, uint64_t length) {
  Io io(Op::discard, offset, length);
  return rig.run(io);
}

}  // namespace

TEST_CASE("after a discard that one leg leaves open, both legs hold zeroes", "[mirror]") {
  MirrorRig rig("", LayerRig::small(), true, k_noisy);
  REQUIRE(rig.write(0, std::string(65536, 'x')) == 0);
  const uint64_t offset = 512, length = 16384 + 512;  // granules in the middle, parts at the ends
  REQUIRE(discard(rig, offset, length) == 0);
  CHECK(content(*rig.test, offset, length) == std::string(length, '\0'));
  CHECK(content(*rig.test, 0, 65536) == content(*rig.reference, 0, 65536));
  CHECK(rig.status()["left_out_bytes"] == 0);
  // It is compared: what is lost there is found.
  REQUIRE(rig.write_to(*rig.test, 4096, std::string(512, 'y')) == 0);
  rig.read(0, 65536);
  REQUIRE(rig.findings().size() == 1);
  CHECK(rig.last()["ranges"][0]["offset_bytes"] == 4096);
}

TEST_CASE("a discard that cannot be made certain is left out, and how much is told", "[mirror]") {
  MirrorRig rig("", LayerRig::small(), true, k_noisy);
  REQUIRE(rig.write(0, std::string(65536, 'x')) == 0);
  rig.test->error = ENOSPC;
  rig.test->failing = op_bit(Op::zero);
  REQUIRE(discard(rig, 512, 16384) == 0);
  CHECK(rig.status()["left_out_bytes"] == 16384);
  rig.read(0, 65536);
  CHECK(rig.findings().empty());
  REQUIRE(rig.write(4096, std::string(8192, 'z')) == 0);
  CHECK(rig.status()["left_out_bytes"] == 8192);
  rig.test->error = 0;
  REQUIRE(discard(rig, 0, 65536) == 0);
  CHECK(rig.status()["left_out_bytes"] == 0);
}

TEST_CASE("no rule of a fault layer meets the zeroes that follow a discard", "[mirror]") {
  MirrorRig rig("", LayerRig::small(), true, k_noisy);
  rig.fault({{"id", "none"}, {"match", {{"op", {"zero"}}}}, {"do", {{"kind", "drop_write"}}}});
  REQUIRE(rig.write(0, std::string(8192, 'x')) == 0);
  REQUIRE(discard(rig, 0, 8192) == 0);
  CHECK(content(*rig.test, 0, 8192) == std::string(8192, '\0'));
}

TEST_CASE("undefined bytes are counted, whatever the chunks", "[mirror]") {
  const uint64_t size = (3 << 20) + 512;
  UndefinedMap map(size);
  CHECK(map.bytes() == 0);
  map.set(512, 2048, true);
  CHECK(map.bytes() == 1536);
  map.set(1 << 20, 3 << 20, true);
  CHECK(map.bytes() == (2 << 20) + 1536);
  map.set(0, size, true);
  CHECK(map.bytes() == size);
  map.set(1 << 20, (1 << 20) + 512, false);
  CHECK(map.bytes() == size - 512);
  map.set(0, size, false);
  CHECK(map.bytes() == 0);
}
