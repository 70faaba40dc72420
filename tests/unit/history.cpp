// SPDX-License-Identifier: MIT
// If this fails, a history of a disk does not notice a write that went wrong, or complains of one
// that did not; also after the disk was served anew.
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/file.hpp"
#include "blk/line_journal.hpp"
#include "blk/mirror/history_file.hpp"
#include "layer_rig.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

namespace {

constexpr uint64_t k_block = 4096;

// A disk in memory that outlives the stacks that stand on it.
struct Medium {
  std::unique_ptr<Disk> disk;
  explicit Medium(const Geometry& geometry) : disk(*make_memory_disk(geometry)) {}
};
struct Over final : Disk {
  Disk& disk;
  explicit Over(Disk& d) : disk(d) {}
  const Geometry& geometry() const override { return disk.geometry(); }
  void submit(Request& request) override { disk.submit(request); }
};

struct HistoryRig {
  TempDir dir;
  Medium medium;
  ManualClock clock;
  ManualTimers timers{clock};
  std::unique_ptr<Disk> disk;
  std::string keys;

  explicit HistoryRig(Geometry geometry = LayerRig::small(), std::string more = "")
      : medium(geometry), keys(std::move(more)) {
    serve();
  }
  Result<> build() {
    disk.reset();
    std::vector<LayerSpec> specs = {*parse_layer("history:file=" + dir.path("h") + keys),
                                    *parse_layer("fault")};
    TRY_ASSIGN(disk, build_stack(std::make_unique<Over>(*medium.disk), specs,
                                 {clock, timers, nullptr, 0}));
    return {};
  }
  void serve() {
    const auto built = build();
    INFO((built ? "" : built.error().message));
    REQUIRE(built);
  }
  Result<json> call(const json& request) { return disk->control(*parse_json(to_line(request))); }
  int write_to(Disk& target, uint64_t offset, const std::string& bytes) {
    Io io(Op::write, offset, bytes.size());
    std::copy(bytes.begin(), bytes.end(), io.data.begin());
    target.submit(io.request);
    return io.error;
  }
  int write(uint64_t offset, const std::string& bytes) { return write_to(*disk, offset, bytes); }
  int run(Op op, uint64_t offset, uint64_t length) {
    Io io(op, offset, length);
    disk->submit(io.request);
    return io.error;
  }
  std::string read(uint64_t offset, uint64_t length) {
    Io io(Op::read, offset, length);
    disk->submit(io.request);
    return io.error == 0 ? io.bytes() : "error " + std::to_string(io.error);
  }
  json findings() { return *read_journal(*call({{"op", "verify.journal"}}), 0, 1 << 20); }
  std::string damage() {
    const json all = findings();
    return all.empty() ? "none" : all.back()["class"].get<std::string>();
  }
  void fault(json action, const char* op) {
    REQUIRE(
        call({{"op", "fault.add"},
              {"rule", {{"match", {{"op", {op}}}}, {"when", {{"times", 1}}}, {"do", action}}}}));
  }
};

}  // namespace

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

TEST_CASE("the five classes are told by what was written", "[history]") {
  Rng rng(test_seed());
  const auto fresh = [&] {
    auto rig = std::make_unique<HistoryRig>();
    for (int round = 0; round < 2; ++round)
      for (uint64_t block = 0; block < 32; ++block)
        REQUIRE(rig->write(block * k_block, random_bytes(rng, k_block)) == 0);
    return rig;
  };
  struct Row {
    const char* damage;
    json fault;
    const char* op;
  };
  const std::vector<Row> table = {
      {"stale", {{"kind", "drop_write"}}, "write"},
      {"torn", {{"kind", "torn_write"}, {"keep", "random"}}, "write"},
      {"misdirected", {{"kind", "misdirect_read"}, {"shift_bytes", 4 * k_block}}, "read"},
      {"zeroed", {{"kind", "corrupt_read"}, {"pattern", "zeroes"}}, "read"},
      {"bit_flip", {{"kind", "corrupt_read"}, {"pattern", "bit"}}, "read"},
  };
  for (const Row& row : table) {
    INFO(row.fault);
    auto rig = fresh();
    rig->fault(row.fault, row.op);
    if (std::string(row.op) == "write")
      REQUIRE(rig->write(5 * k_block, random_bytes(rng, k_block)) == 0);
    CHECK(rig->findings().empty());
    rig->read(5 * k_block, k_block);
    CHECK(rig->damage() == row.damage);
    CHECK(rig->findings().back()["ranges"][0]["offset_bytes"] == 5 * k_block);
  }
  auto rig = fresh();
  rig->fault({{"kind", "misdirect_write"}, {"to_bytes", 9 * k_block}}, "write");
  REQUIRE(rig->write(5 * k_block, random_bytes(rng, k_block)) == 0);
  rig->read(9 * k_block, k_block);
  CHECK(rig->damage() == "misdirected");
  CHECK(rig->findings().back()["from"]["offset_bytes"] == 5 * k_block);
  rig->read(5 * k_block, k_block);
  CHECK(rig->damage() == "stale");
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

TEST_CASE("every bad block of a read is named", "[history]") {
  HistoryRig rig;
  Rng rng(test_seed());
  REQUIRE(rig.write(0, random_bytes(rng, 200 * k_block)) == 0);
  const auto damage = [&](uint64_t block, uint64_t count) {
    REQUIRE(rig.write_to(*rig.medium.disk, block * k_block, random_bytes(rng, count * k_block)) ==
            0);
  };
  damage(3, 1);
  damage(7, 2);
  damage(31, 1);
  rig.read(512, 40 * k_block);
  REQUIRE(rig.findings().size() == 1);
  json found = rig.findings().back();
  const auto range = [](uint64_t block, uint64_t count) {
    return json{{"offset_bytes", block * k_block}, {"length_bytes", count * k_block}};
  };
  CHECK(found["ranges"] == json::array({range(3, 1), range(7, 2), range(31, 1)}));
  CHECK(found["ranges_total"] == 3);
  CHECK(found["excerpt"]["offset_bytes"] == 3 * k_block);
  for (uint64_t block = 41; block < 200; block += 2) damage(block, 1);
  rig.read(40 * k_block, 160 * k_block);
  found = rig.findings().back();
  CHECK(found["ranges"].size() == 64);
  CHECK(found["ranges_total"] == 80);
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
  CHECK_THAT(again.error().message, Catch::Contains("EFBIG"));
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
