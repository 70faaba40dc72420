// SPDX-License-Identifier: MIT
// If this fails, what a history says of a bad block is wrong: where, what, and by whom.
#include <fmt/format.h>

#include "history_rig.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

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

TEST_CASE("a read over blocks of several lost writes has a finding for each", "[history]") {
  HistoryRig rig;
  Rng rng(test_seed());
  for (int round = 0; round < 2; ++round)
    for (uint64_t block = 0; block < 16; ++block) {
      const bool lost = round == 1 && (block == 3 || block == 9);
      if (lost) rig.fault({{"kind", "drop_write"}}, "write");
      REQUIRE(rig.write(block * k_block, random_bytes(rng, k_block)) == 0);
    }
  const std::string noise = random_bytes(rng, k_block);
  for (const uint64_t block : {5, 6})
    REQUIRE(rig.write_to(*rig.medium.disk, block * k_block, noise) == 0);
  rig.read(0, 16 * k_block);
  std::vector<std::string> told;
  for (const json& one : rig.findings())
    told.push_back(fmt::format("{} {}+{} by {}", one["class"].get<std::string>(),
                               one["ranges"][0]["offset_bytes"].get<uint64_t>() / k_block,
                               one["ranges_total"].get<uint64_t>(),
                               one["last_writer"]["test"]["number"].get<uint64_t>()));
  CHECK(told == std::vector<std::string>{"stale 3+1 by 20", "other 5+1 by 22", "stale 9+1 by 26"});
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
