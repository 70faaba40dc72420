// SPDX-License-Identifier: MIT
// If this fails, a log that does not tell everything passes for one that does.
#include <fcntl.h>

#include "record_rig.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

TEST_CASE("record: only what goes on where an orderly end was has no gap before it", "[record]") {
  RecordRig rig;
  const std::string blank(1 << 20, '\0');
  REQUIRE(rig.open());
  CHECK(rig.run(Op::write, 0, 512, k_fua, 'a') == 0);
  const std::string killed = file_bytes(rig.log());  // as a recorder leaves it that dies now
  CHECK(rig.run(Op::write, 512, 512, 0, 'b') == 0);
  rig.put_away();
  const std::string closed = file_bytes(rig.log());
  const auto gaps_after = [&](const std::string& log) {
    put_file(rig.log(), log);
    REQUIRE(rig.open(",append=yes"));
    CHECK(rig.run(Op::write, 1024, 512, 0, 'c') == 0);
    rig.close();
    verify::Replayed said;
    REQUIRE(replayed(rig.log(), {}, blank, &said));
    CHECK(said.end.gaps == said.gaps);
    CHECK(said.end.whole);
    return said.gaps;
  };
  CHECK(gaps_after(closed) == 0);
  CHECK(gaps_after(killed) == 1);
  put_file(rig.log(), closed.substr(0, closed.size() - 640));  // without the last request
  CHECK(rig.open(",append=yes").error().code == Code::invalid);
  CHECK(gaps_after(closed + "more") == 1);
  // A gap that is not in what is replayed is not told of it.
  put_file(rig.log(), killed);
  REQUIRE(rig.open(",append=yes"));
  rig.close();
  verify::Replayed said;
  REQUIRE(replayed(rig.log(), {{}, verify::LogPoint::parse("1")}, blank, &said));
  CHECK(said.gaps == 0);
  CHECK(said.end.gaps == 1);
}

TEST_CASE("record: closed on a disk that cannot be read, it knows no end to go on from",
          "[record]") {
  RecordRig rig;
  REQUIRE(rig.open());
  CHECK(rig.run(Op::write, 0, 512, 0, 'a') == 0);
  rig.gate->bad_reads = true;
  rig.close();
  CHECK(LogReader::open(rig.log())->head().state == LogHead::closed);
  CHECK_FALSE(LogReader::open(rig.log())->head().knows_last_edges);
  REQUIRE(rig.open(",append=yes"));
  rig.close();
  CHECK(LogReader::open(rig.log())->head().knows_last_edges);
  verify::Replayed said;
  REQUIRE(replayed(rig.log(), {}, std::string(1 << 20, '\0'), &said));
  CHECK(said.gaps == 1);
}

TEST_CASE("record: a replay says of a cut log that it is one, wherever the cut is", "[record]") {
  RecordRig rig;
  REQUIRE(rig.open("", 8192));
  for (uint64_t i = 0; i < 3; ++i) CHECK(rig.run(Op::write, 512 * i, 512) == 0);
  rig.close();
  const std::string whole = file_bytes(rig.log()), path = rig.dir.path("cut");
  for (size_t cut = k_log_head; cut <= whole.size(); cut += 8) {
    put_file(path, whole.substr(0, cut));
    verify::Replayed said;
    REQUIRE(replayed(path, {}, std::string(8192, '\0'), &said));
    if (said.end.whole != (cut == whole.size())) FAIL("cut at " << cut);
    REQUIRE(said.end.used_bytes + said.end.unused_bytes == cut);
  }
}
