// SPDX-License-Identifier: MIT
// If this fails, --direct corrupts what is not aligned as the device wants it, or makes the image
// longer.
#include <algorithm>
#include <cstdlib>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../catch.hpp"
#include "../conform/patience.hpp"
#include "../conform/support.hpp"
#include "base/json.hpp"
#include "blk/backend/file.hpp"
#include "blk/checked.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

namespace {

struct DirectRig {
  std::string path = "/var/tmp/pvt-direct.XXXXXX";
  std::unique_ptr<Loop> loop = *Loop::create();
  std::unique_ptr<AsyncIo> io = *AsyncIo::create(*loop);
  std::unique_ptr<Disk> disk;

  // False where this machine's file system has no O_DIRECT.
  bool open(uint64_t size) {
    Fd fd(mkostemp(path.data(), O_CLOEXEC));
    REQUIRE(fd);
    REQUIRE(ftruncate(fd.get(), static_cast<off_t>(size)) == 0);
    Geometry geometry;
    geometry.size = size;
    auto made = make_direct_disk(std::move(fd), geometry, *io, path, 4096);
    if (!made) {
      CHECK(made.error().code == Code::unsupported);
      WARN("skipped: " << made.error().message);
      return false;
    }
    disk = make_audited(std::move(*made));
    return true;
  }
  ~DirectRig() {
    disk.reset();
    unlink(path.c_str());
  }
  void wait(const std::vector<std::unique_ptr<Io>>& all) {
    run_until(*loop, [&] {
      return std::all_of(all.begin(), all.end(), [](const auto& one) { return one->completions; });
    });
  }
};

}  // namespace

TEST_CASE("direct: any sectors, any buffers, many at once, as a byte array would", "[direct]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  constexpr uint64_t k_size = (1 << 20) + 3 * 512;  // ends within a block of 4096
  DirectRig rig;
  if (!rig.open(k_size)) return;
  std::string model(k_size, '\0');
  for (int round = 0; round < 60; ++round) {
    std::vector<std::unique_ptr<Io>> batch;
    // Neighbours in the same blocks, but never the same sector twice in a batch.
    uint64_t at = rng.below(k_size / 512) * 512;
    for (int i = 0; i < 12 && at < k_size; ++i) {
      const uint64_t length = std::min((1 + rng.below(20)) * 512, k_size - at);
      const Op op = rng.below(4) == 0 ? Op::zero : Op::write;
      auto io = std::make_unique<Io>(op, at, length, rng.below(3) == 0 ? k_fua : 0U);
      if (op == Op::write) {
        const std::string bytes = random_bytes(rng, length);
        std::copy(bytes.begin(), bytes.end(), io->data.begin());
        io->split_into({rng.below(length), rng.below(length)});
        model.replace(at, length, bytes);
      } else {
        model.replace(at, length, length, '\0');
      }
      at += length + rng.below(3) * 512;
      batch.push_back(std::move(io));
    }
    if (round % 3 == 0) {  // the last sectors too
      batch.push_back(std::make_unique<Io>(Op::read, k_size - 512, 512));
    }
    for (auto& io : batch) rig.disk->submit(io->request);
    rig.wait(batch);
    for (auto& io : batch) CHECK(io->error == 0);
    std::vector<std::unique_ptr<Io>> reads;
    const uint64_t from = rng.below(k_size / 512) * 512;
    reads.push_back(std::make_unique<Io>(Op::read, from, k_size - from));
    reads.back()->split_into({512 * rng.below(5), 100});
    reads.push_back(std::make_unique<Io>(Op::read, 0, k_size));
    for (auto& io : reads) rig.disk->submit(io->request);
    rig.wait(reads);
    CHECK(reads[0]->bytes() == model.substr(from));
    CHECK(reads[1]->bytes() == model);
  }
  // Chance may have left one of these out: a sector in the midst of a block, and the last one.
  for (const uint64_t at : {uint64_t{512}, k_size - 512}) {
    std::vector<std::unique_ptr<Io>> last;
    last.push_back(std::make_unique<Io>(Op::write, at, 512));
    rig.disk->submit(last[0]->request);
    rig.wait(last);
  }
  struct stat st {};
  REQUIRE(stat(rig.path.c_str(), &st) == 0);
  CHECK(st.st_size == static_cast<off_t>(k_size));
  json out;
  rig.disk->inspect(out);
  for (const char* counter : {"bounced", "merged", "past_end"})
    CHECK(out["backend"]["direct"][counter] > 0);
}

TEST_CASE("direct: a file system without O_DIRECT says so", "[direct]") {
  Fd fd(open("/proc/self/comm", O_RDONLY | O_CLOEXEC));
  auto loop = *Loop::create();
  auto io = *AsyncIo::create(*loop);
  Geometry geometry;
  geometry.size = 512;
  geometry.read_only = true;
  const auto made = make_direct_disk(std::move(fd), geometry, *io, "/proc/self/comm");
  REQUIRE_FALSE(made);
  CHECK(made.error().code == Code::unsupported);
}
