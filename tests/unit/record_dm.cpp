// SPDX-License-Identifier: MIT
// If this fails, what is written as a log of dm-log-writes is not what the kernel would write, or
// such a log is not understood. The independent reader and writer are in tests/servers/dm_log.py.
#include <cerrno>
#include <fcntl.h>

#include "record_rig.hpp"
#include "verify/log/dm_log.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;
using namespace pv::verify;

namespace {

struct Read {
  uint64_t sector, sectors, flags;
  std::string mark;
  bool operator==(const Read&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Read& r) {
  return out << r.sector << "+" << r.sectors << "/" << r.flags << " " << r.mark;
}

std::vector<Read> entries_of(const std::string& path) {
  auto log = DmReader::open(path);
  INFO((log ? "" : log.error().message));
  REQUIRE(log);
  std::vector<Read> all;
  DmEntry entry;
  while (*log->next(entry)) all.push_back({entry.sector, entry.sectors, entry.flags, log->mark()});
  return all;
}

const Read k_end = {0, 0, k_dm_mark, k_dm_end_mark};
const Read k_flushed = {0, 0, k_dm_flush, ""};

std::string exported(RecordRig& rig) {
  rig.close();
  const auto made = export_dm_log(rig.log(), rig.dir.path("dm"));
  INFO((made ? "" : made.error().message));
  REQUIRE(made);
  return rig.dir.path("dm");
}

}  // namespace

// The example of the kernel's documentation: W1,W2,W3,C3,C2,Wflush,C1,Cflush.
TEST_CASE("dm-log-writes: what a flush covers is before it, in the order of completion",
          "[record]") {
  RecordRig rig;
  REQUIRE(rig.open());
  rig.gate->hold = true;
  for (uint64_t i = 1; i <= 3; ++i) rig.start(Op::write, i * 4096, 512);
  rig.gate->let_go(2);
  rig.gate->let_go(1);
  Io& flush = rig.start(Op::flush);
  rig.gate->let_go(0);
  rig.gate->let_go(0);
  CHECK(rig.wait(flush) == 0);
  CHECK(entries_of(exported(rig)) ==
        std::vector<Read>{{24, 1, 0, ""}, {16, 1, 0, ""}, k_flushed, {8, 1, 0, ""}, k_end});
}

TEST_CASE("dm-log-writes: FUA lasts at once, yet never below an older write", "[record]") {
  RecordRig rig;
  REQUIRE(rig.open());
  CHECK(rig.run(Op::write, 0, 4096, 0, 'a') == 0);
  CHECK(rig.run(Op::write, 8192, 512, 0, 'b') == 0);
  CHECK(rig.run(Op::write, 512, 512, k_fua, 'c') == 0);
  CHECK(rig.run(Op::write, 16384, 512, k_fua, 'd') == 0);
  CHECK(rig.run(Op::discard, 65536, 4096) == 0);
  CHECK(rig.run(Op::zero, 4096, 1024) == 0);
  rig.gate->error = EIO;
  CHECK(rig.run(Op::write, 0, 512) == EIO);
  CHECK(rig.run(Op::flush) == EIO);
  CHECK(entries_of(exported(rig)) == std::vector<Read>{{0, 8, 0, ""},
                                                       {1, 1, k_dm_fua, ""},
                                                       {32, 1, k_dm_fua, ""},
                                                       {16, 1, 0, ""},
                                                       {128, 8, k_dm_discard, ""},
                                                       {8, 2, 0, ""},
                                                       k_end});
}

TEST_CASE("dm-log-writes: there and back again is the same disk, and the same log", "[record]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  RecordRig rig;
  REQUIRE(rig.open());
  for (int i = 0; i < 100; ++i) {
    const Op op = i % 10 == 9 ? Op::flush : i % 7 == 6 ? Op::discard : Op::write;
    const uint64_t offset = op == Op::flush ? 0 : rng.below(2000) * 512;
    CHECK(rig.run(op, offset, op == Op::flush ? 0 : 512 * (1 + rng.below(8)),
                  rng.below(9) == 0 && op == Op::write ? static_cast<uint32_t>(k_fua) : 0,
                  static_cast<char>('a' + rng.below(26))) == 0);
    if (i == 50) REQUIRE(rig.disk->control(json{{"op", "record.mark"}, {"name", "half"}}));
  }
  const std::string content = rig.content();
  const std::string dm = exported(rig);
  const std::string back = rig.dir.path("back"), again = rig.dir.path("again");
  const auto imported = import_dm_log(dm, back, 1 << 20);
  REQUIRE(imported);
  CHECK(imported->whole);
  CHECK(*replayed(back, {}, std::string(1 << 20, '\0')) == content);
  REQUIRE(export_dm_log(back, again));
  // Whoever replays both sees the same; a flush of the first is at the same place in the second.
  CHECK(entries_of(again) == entries_of(dm));
  CHECK(file_bytes(again) == file_bytes(dm));
}

TEST_CASE("dm-log-writes: cut at any byte, everything before the cut is imported", "[record]") {
  RecordRig rig;
  REQUIRE(rig.open("", 8192));
  CHECK(rig.run(Op::write, 0, 512, 0, 'a') == 0);
  CHECK(rig.run(Op::flush) == 0);
  CHECK(rig.run(Op::write, 512, 1024, k_fua, 'b') == 0);
  const std::string whole = file_bytes(exported(rig));
  REQUIRE(whole.size() == 512 * 8);
  // Sectors: head, write and data, flush, write and two of data, the mark of the end.
  const std::vector<std::pair<size_t, uint64_t>> ends = {
      {1536, 1}, {2048, 2}, {3584, 3}, {4096, 4}};
  const std::string cut_path = rig.dir.path("cut"), out = rig.dir.path("out");
  for (size_t cut = 0; cut <= whole.size(); ++cut) {
    put_file(cut_path, whole.substr(0, cut));
    std::remove(out.c_str());
    const auto made = import_dm_log(cut_path, out, 8192);
    uint64_t expected = 0;
    for (const auto& [end, count] : ends)
      if (end <= cut) expected = count;
    if (made.has_value() != (cut >= k_dm_head) || (made && made->entries != expected) ||
        (made && made->whole != (cut == whole.size()))) {
      INFO("cut at " << cut);
      CHECK(made.has_value() == (cut >= k_dm_head));
      REQUIRE(made);
      CHECK(made->entries == expected);
      CHECK(made->whole == (cut == whole.size()));
    }
  }
}

TEST_CASE("dm-log-writes: nothing that exists is overwritten, nothing else is taken for a log",
          "[record]") {
  RecordRig rig;
  REQUIRE(rig.open());
  CHECK(rig.run(Op::write, 0, 512) == 0);
  rig.close();
  put_file(rig.dir.path("there"), "precious");
  CHECK(export_dm_log(rig.log(), rig.dir.path("there")).error().code == Code::duplicate_name);
  CHECK(import_dm_log(rig.log(), rig.dir.path("new"), 0).error().code == Code::invalid);
  CHECK(export_dm_log(rig.dir.path("there"), rig.dir.path("new")).error().code == Code::invalid);
  CHECK(file_bytes(rig.dir.path("there")) == "precious");
}
