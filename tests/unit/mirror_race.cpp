// SPDX-License-Identifier: MIT
// If this fails, a mirror of two good disks reports differences that are none, or lets overlapping
// writes reach its legs in different orders.
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "mirror_rig.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

namespace {

constexpr uint64_t k_sectors = 64;

// $PV_MIRROR_RACES, for a longer run.
uint64_t operations() {
  const char* given = getenv("PV_MIRROR_RACES");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : 50'000;
}

Geometry racing(DiscardBehaviour discard) {
  Geometry geometry;
  geometry.size = k_sectors * 512;
  geometry.discard = discard;
  return geometry;
}

std::unique_ptr<Io> random_io(Rng& rng) {
  constexpr Op k_mix[] = {Op::read, Op::read,    Op::read,  Op::write, Op::write,
                          Op::zero, Op::discard, Op::flush, Op::map};
  const Op op = k_mix[rng.below(std::size(k_mix))];
  const uint64_t first = rng.below(k_sectors),
                 count = 1 + rng.below(std::min<uint64_t>(k_sectors - first, 12));
  auto io = op == Op::flush ? std::make_unique<Io>(op, 0, 0)
                            : std::make_unique<Io>(op, first * 512, count * 512);
  if (op == Op::write)
    for (uint64_t at = 0; at < io->data.size(); at += 8) {
      const uint64_t value = rng.next();
      std::memcpy(&io->data[at], &value, 8);
    }
  return io;
}

// Runs requests, up to 16 at a time, each of which is carried out on each leg when chance picks it.
void race(MirrorRig& rig, Rng& rng, uint64_t count, bool errors) {
  std::vector<std::unique_ptr<Io>> flying;
  rig.test->slow = rig.reference->slow = true;
  for (uint64_t done = 0; done < count || !flying.empty();) {
    if (done < count && flying.size() < 16 && rng.below(2) == 0) {
      flying.push_back(random_io(rng));
      rig.disk->submit(flying.back()->request);
      ++done;
    } else {
      Slow& leg = rng.below(2) == 0 ? *rig.test : *rig.reference;
      if (!leg.waiting.empty()) {
        // Both legs fail together or not at all: with equal errors nothing is said.
        leg.pick(rng.below(leg.waiting.size()));
      }
    }
    if (errors && rng.below(97) == 0 && rig.test->waiting.empty() && rig.reference->waiting.empty())
      rig.test->error = rig.reference->error = rig.test->error != 0 ? 0 : ENOSPC;
    flying.erase(std::remove_if(flying.begin(), flying.end(),
                                [](const auto& io) { return io->completions != 0; }),
                 flying.end());
  }
  rig.test->slow = rig.reference->slow = false;
  rig.test->error = rig.reference->error = 0;
}

std::string content(Disk& leg) {
  Io io(Op::read, 0, k_sectors * 512);
  leg.submit(io.request);
  return io.bytes();
}

}  // namespace

TEST_CASE("racing operations on two good legs are no difference", "[mirror]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  for (const auto discard : {DiscardBehaviour::zeroes, DiscardBehaviour::unspecified}) {
    Rng rng(seed);
    MirrorRig rig("", racing(discard), false);
    race(rig, rng, operations(), false);
    CHECK(rig.status()["mismatches"] == 0);
    CHECK(rig.status()["status_differences"] == 0);
    CHECK(rig.findings().empty());
    CHECK(content(*rig.test) == content(*rig.reference));
  }
}

TEST_CASE("errors that both legs have make no difference, then or later", "[mirror]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  MirrorRig rig("", racing(DiscardBehaviour::zeroes), false);
  race(rig, rng, operations() / 4, true);
  CHECK(rig.findings().empty());
}

TEST_CASE("without the order that the mirror keeps, the same race does differ", "[mirror]") {
  // The negative: two overlapping writes that the legs carry out in different orders.
  MirrorRig rig("", racing(DiscardBehaviour::zeroes), false);
  rig.test->slow = rig.reference->slow = true;
  Io a(Op::write, 0, 1024), b(Op::write, 512, 1024), far(Op::write, 8192, 512);
  std::fill(a.data.begin(), a.data.end(), 'a');
  std::fill(b.data.begin(), b.data.end(), 'b');
  rig.disk->submit(a.request);
  rig.disk->submit(b.request);
  rig.disk->submit(far.request);
  CHECK(rig.test->waiting.size() == 2);  // b waits for a, what is far off does not
  CHECK(rig.reference->waiting.size() == 2);
  rig.test->pick(0);
  rig.reference->pick(1);
  CHECK(a.completions == 0);
  CHECK(rig.test->waiting.size() == 1);
  rig.reference->pick(0);
  CHECK(a.completions == 1);
  CHECK(rig.test->waiting.size() == 2);
  while (!rig.test->waiting.empty()) rig.test->pick(0);
  while (!rig.reference->waiting.empty()) rig.reference->pick(0);
  CHECK(content(*rig.test) == content(*rig.reference));
}
