// SPDX-License-Identifier: MIT
// If this fails, a history of a disk does not notice a write that went wrong, or complains of one
// that did not; also after the disk was served anew.
#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/file.hpp"
#include "blk/mirror/history_file.hpp"
#include "history_rig.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

TEST_CASE("whatever happens to a good disk, a history says nothing of it", "[history]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  Geometry geometry = LayerRig::small();
  geometry.size = 40 * k_block + 3 * 512;  // the last block is a short one
  geometry.discard = rng.below(2) == 0 ? DiscardBehaviour::zeroes : DiscardBehaviour::unspecified;
  HistoryRig rig(geometry);
  std::string model(geometry.size, '\0');
  const uint64_t sectors = geometry.size / 512;
  for (int i = 0; i < 20'000; ++i) {
    const uint64_t first = rng.below(sectors),
                   count = 1 + rng.below(std::min<uint64_t>(40, sectors - first));
    const uint64_t offset = first * 512, length = count * 512;
    switch (rng.below(6)) {
      case 0:
      case 1: {
        const std::string bytes = random_bytes(rng, length);
        REQUIRE(rig.write(offset, bytes) == 0);
        model.replace(offset, length, bytes);
        break;
      }
      case 2:
        REQUIRE(rig.run(rng.below(2) == 0 ? Op::zero : Op::discard, offset, length) == 0);
        model.replace(offset, length, std::string(length, '\0'));
        break;
      case 3:
        if (rng.below(50) == 0) rig.serve();  // from the file alone
        break;
      default:
        REQUIRE(rig.read(offset, length) == model.substr(offset, length));
    }
    if (!rig.findings().empty()) FAIL(rig.findings().back());
  }
}

TEST_CASE("a dropped write is found after the disk was served anew", "[history]") {
  HistoryRig rig;
  REQUIRE(rig.write(0, many('a', k_block)) == 0);
  rig.fault({{"kind", "drop_write"}}, "write");
  REQUIRE(rig.write(0, many('b', k_block)) == 0);
  rig.serve();
  CHECK(rig.read(0, 512) == many('a', 512));
  CHECK(rig.damage() == "stale");
  CHECK(rig.findings().back()["generation"] == 2);
  REQUIRE(rig.write(0, many('c', k_block)) == 0);
  rig.read(0, k_block);
  CHECK(rig.findings().size() == 1);
}

TEST_CASE("a write of less than a block is watched as well", "[history]") {
  HistoryRig rig;
  REQUIRE(rig.write(0, many('a', k_block)) == 0);
  rig.fault({{"kind", "drop_write"}}, "write");
  REQUIRE(rig.write(1024, many('b', 512)) == 0);
  rig.read(0, k_block);
  CHECK(rig.damage() == "stale");
}

TEST_CASE("a change that was under way when the server was killed may have happened or not",
          "[history]") {
  for (const bool happened : {false, true}) {
    HistoryRig rig;
    REQUIRE(rig.write(0, many('a', k_block)) == 0);
    rig.fault({{"kind", "stall"}}, "write");
    Io hanging(Op::write, 0, k_block);
    std::fill(hanging.data.begin(), hanging.data.end(), 'b');
    rig.disk->submit(hanging.request);
    CHECK(hanging.completions == 0);
    if (happened) REQUIRE(rig.write_to(*rig.medium.disk, 0, many('b', k_block)) == 0);
    rig.serve();
    CHECK(rig.read(0, k_block) == many(happened ? 'b' : 'a', k_block));
    CHECK(rig.findings().empty());
    // From now on it is what it was seen to be.
    REQUIRE(rig.write_to(*rig.medium.disk, 0, many(happened ? 'a' : 'b', k_block)) == 0);
    rig.read(0, k_block);
    CHECK(rig.findings().size() == 1);
  }
}

TEST_CASE("a history that is none, damaged or another disk's is refused", "[history]") {
  HistoryRig rig;
  const std::string path = rig.dir.path("h");
  rig.disk.reset();
  CHECK(HistoryFile::open(path, 1 << 20));
  const auto other = HistoryFile::open(path, 1 << 21);
  REQUIRE_FALSE(other);
  CHECK(other.error().code == Code::incompatible);
  struct stat st {};
  REQUIRE(stat(path.c_str(), &st) == 0);
  for (const off_t size : {off_t{1}, off_t{40}, off_t{4096}, st.st_size - 1, st.st_size + 1}) {
    REQUIRE(truncate(path.c_str(), size) == 0);
    const auto opened = HistoryFile::open(path, 1 << 20);
    REQUIRE_FALSE(opened);
    CHECK(opened.error().code == Code::invalid);
  }
  REQUIRE(write_file_atomic(path, many('x', 100'000)));
  CHECK_FALSE(HistoryFile::open(path, 1 << 20));
}

TEST_CASE("after an end of the machine nothing of a history is believed", "[history]") {
  HistoryRig rig;
  const std::string path = rig.dir.path("h");
  REQUIRE(rig.write(0, many('a', k_block)) == 0);
  {
    const Fd file(open(path.c_str(), O_RDWR));
    REQUIRE(pwrite(file.get(), "another-boot", 13, 24) == 13);  // whose boot has it in use
    Fd copy(open(rig.dir.path("copy").c_str(), O_RDWR | O_CREAT, 0600));
    REQUIRE(copy_sparse(file.get(), copy.get()));
  }
  auto opened = HistoryFile::open(rig.dir.path("copy"), 1 << 20);
  REQUIRE(opened);
  CHECK(opened->forgotten());
  std::vector<HistoryFile::Entry> entries;
  CHECK(opened->read(0, 1, entries) == 0);
  CHECK(entries[0].generation == 0);
}

TEST_CASE("a history that cannot be written is broken, and says so", "[history]") {
  HistoryRig rig;
  REQUIRE(rig.write(20 * k_block, many('a', k_block)) == 0);
  CHECK((*rig.call({{"op", "verify.status"}}))["verify"]["state"] == "comparing");
  struct rlimit before {};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto ignored = signal(SIGXFSZ, SIG_IGN);
  struct rlimit low = before;
  low.rlim_cur = 4096 + 24 * 8;  // the entries of eight blocks
  REQUIRE(setrlimit(RLIMIT_FSIZE, &low) == 0);
  const int near = rig.write(k_block, many('b', k_block));
  rig.fault({{"kind", "drop_write"}}, "write");
  const int far = rig.write(20 * k_block, many('b', k_block));
  REQUIRE(setrlimit(RLIMIT_FSIZE, &before) == 0);
  signal(SIGXFSZ, ignored);
  CHECK(near == 0);
  CHECK(far == 0);
  // By what the entries say now nothing can be judged.
  CHECK(rig.read(20 * k_block, k_block) == many('a', k_block));
  const json status = (*rig.call({{"op", "verify.status"}}))["verify"];
  CHECK(status["state"] == "broken");
  CHECK(status["error"] == "EFBIG");
  CHECK(status["mismatches"] == 0);
  CHECK(rig.findings().size() == 1);
  CHECK(rig.findings().back()["kind"] == "broken");
  const auto again = rig.build();
  REQUIRE_FALSE(again);
  CHECK(again.error().code == Code::invalid);
  CHECK_THAT(again.error().message, contains_text("EFBIG"));
}

TEST_CASE("a history of another disk of the same size is refused", "[history]") {
  HistoryRig rig;
  Rng rng(test_seed());
  REQUIRE(rig.write(0, random_bytes(rng, 32 * k_block)) == 0);
  REQUIRE(rig.write(100 * k_block, many('\0', 32 * k_block)) == 0);
  // Most of its data is lost: it is the same disk all the same.
  REQUIRE(rig.write_to(*rig.medium.disk, 0, random_bytes(rng, 24 * k_block)) == 0);
  rig.serve();
  rig.read(0, k_block);
  CHECK(rig.findings().size() == 1);
  REQUIRE(rig.write_to(*rig.medium.disk, 0, random_bytes(rng, 32 * k_block)) == 0);
  const auto refused = rig.build();
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == Code::incompatible);
  rig.keys = ",identical=assume";
  rig.serve();
  rig.keys = ",identical=perhaps";
  CHECK(rig.build().error().code == Code::usage);
}

TEST_CASE("an entry with a bit that turned is learned anew, and counted", "[history]") {
  Rng rng(test_seed());
  for (int i = 0; i < 192; i += 7) {
    HistoryRig rig;
    const std::string bytes = random_bytes(rng, k_block);
    REQUIRE(rig.write(5 * k_block, bytes) == 0);
    const Fd file(open(rig.dir.path("h").c_str(), O_RDWR));
    const off_t at = 4096 + 24 * 5 + i / 8;
    char byte = 0;
    REQUIRE(pread(file.get(), &byte, 1, at) == 1);
    byte = static_cast<char>(byte ^ 1 << i % 8);
    REQUIRE(pwrite(file.get(), &byte, 1, at) == 1);
    INFO("bit " << i);
    CHECK(rig.read(5 * k_block, k_block) == bytes);
    CHECK(rig.findings().empty());
    json shown;
    rig.disk->inspect(shown);
    CHECK(shown["history"]["damaged_entries"] == 1);
    REQUIRE(rig.write_to(*rig.medium.disk, 5 * k_block, random_bytes(rng, k_block)) == 0);
    rig.read(5 * k_block, k_block);
    CHECK(rig.findings().size() == 1);
  }
}

TEST_CASE("24 bytes for a block, and none for one that nobody has written", "[history]") {
  Geometry geometry;
  geometry.size = uint64_t{1} << 40;
  TempDir dir;
  REQUIRE(HistoryFile::open(dir.path("h"), geometry.size));
  struct stat st {};
  REQUIRE(stat(dir.path("h").c_str(), &st) == 0);
  CHECK(static_cast<uint64_t>(st.st_size) == 4096 + 24 * (geometry.size / 4096));
  CHECK(st.st_blocks * 512 <= 64 << 10);
}

TEST_CASE("a scrub tells once what it finds again and again, until something is written there",
          "[history]") {
  HistoryRig rig(LayerRig::small(), ",scrub=8M");
  const auto scrub = [&rig](int ticks) {
    for (int i = 0; i < ticks; ++i) rig.timers.advance_ns(20 * k_ns_per_ms);
  };
  const auto passes = [&rig] {
    json out;
    rig.disk->inspect(out);
    return out["history"]["scrub"]["passes"].get<uint64_t>();
  };
  REQUIRE(rig.write(65536, std::string(8192, 'a')) == 0);
  REQUIRE(rig.write_to(*rig.medium.disk, 65536, std::string(512, 'b')) == 0);
  scrub(60);
  REQUIRE(rig.findings().size() == 1);
  CHECK(rig.findings()[0]["request"]["scrub"] == true);
  const uint64_t before = passes();
  scrub(200);
  CHECK(passes() > before + 1);
  CHECK(rig.findings().size() == 1);
  // Damage of another kind at the same place is news, and so is the same one after a write.
  REQUIRE(rig.write_to(*rig.medium.disk, 65536, std::string(512, 'c')) == 0);
  scrub(60);
  CHECK(rig.findings().size() == 2);
  REQUIRE(rig.write(65536, std::string(8192, 'a')) == 0);
  REQUIRE(rig.write_to(*rig.medium.disk, 65536, std::string(512, 'c')) == 0);
  scrub(60);
  CHECK(rig.findings().size() == 3);
  // Whoever reads it himself is told each time.
  rig.read(65536, 4096);
  CHECK(rig.findings().size() == 4);
}
