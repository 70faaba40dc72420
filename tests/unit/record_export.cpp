// SPDX-License-Identifier: MIT
// If this fails, a log that was exported replays to another disk than the one that was recorded.
// The reader here knows dm-log-writes, version 1, from the kernel's documentation
// (Documentation/admin-guide/device-mapper/log-writes.rst, drivers/md/dm-log-writes.c) and shares
// nothing with ours.
#include <cstring>

#include <fmt/format.h>

#include "record_rig.hpp"
#include "verify/log/dm_log.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

namespace {

constexpr uint64_t k_export_size = 64 << 10;
constexpr uint64_t k_export_sector = 512;

uint64_t le64(const std::string& bytes, uint64_t at) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(bytes.at(at + i));
  return value;
}

// visit(mark) at each mark, with the disk as the entries before have made it; and at the end.
template <class Visit>
std::string replay_dm(const std::string& log, Visit&& visit) {
  constexpr uint64_t k_flag_discard = 4, k_flag_mark = 8;
  std::string disk(k_export_size, '\0');
  REQUIRE(le64(log, 0) == 0x6a736677736872U);
  REQUIRE(le64(log, 8) == 1);
  const uint64_t entries = le64(log, 16);
  uint64_t at = k_export_sector;
  for (uint64_t i = 0; i < entries; ++i) {
    const uint64_t offset = le64(log, at) * k_export_sector;
    const uint64_t length = le64(log, at + 8) * k_export_sector;
    const uint64_t flags = le64(log, at + 16), text = le64(log, at + 24);
    const uint64_t data = at + k_export_sector;
    at = data;
    if ((flags & k_flag_mark) != 0) {
      visit(log.substr(data - k_export_sector + 32, text), disk);
    } else if ((flags & k_flag_discard) != 0) {
      disk.replace(offset, length, length, '\0');
    } else {
      disk.replace(offset, length, log.substr(data, length));
      at += length;
    }
  }
  return disk;
}

// One request at a time, many of them over each other; a mark after each flush.
std::map<std::string, std::string> write_at_random(RecordRig& rig, Rng& rng, std::string& model) {
  std::map<std::string, std::string> at_mark;
  for (int i = 0; i < 40; ++i) {
    const uint64_t kind = rng.below(10);
    const uint64_t offset = rng.below(24) * k_export_sector;
    const uint64_t length = (1 + rng.below(8)) * k_export_sector;
    const auto fill = static_cast<char>('a' + i % 26);
    if (kind == 0) {
      REQUIRE(rig.run(Op::flush) == 0);
      const std::string name = fmt::format("m{}", i);
      REQUIRE(rig.disk->control(json{{"op", "record.mark"}, {"name", name}}));
      at_mark[name] = model;
    } else if (kind <= 2) {
      REQUIRE(rig.run(kind == 1 ? Op::discard : Op::zero, offset, length) == 0);
      model.replace(offset, length, length, '\0');
    } else {
      const uint32_t flags = kind <= 5 ? static_cast<uint32_t>(k_fua) : 0;
      REQUIRE(rig.run(Op::write, offset, length, flags, fill) == 0);
      model.replace(offset, length, length, fill);
    }
  }
  return at_mark;
}

}  // namespace

TEST_CASE("export: what the kernel's format replays to is the disk, at each flush and at the end",
          "[record]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  for (int round = 0; round < 1000; ++round) {
    CAPTURE(round);
    RecordRig rig;
    REQUIRE(rig.open("", k_export_size));
    std::string model(k_export_size, '\0');
    const auto at_mark = write_at_random(rig, rng, model);
    rig.close();
    const std::string out = rig.dir.path("dm");
    REQUIRE(verify::export_dm_log(rig.log(), out));
    size_t seen = 0;
    const auto look = [&](const std::string& mark, const std::string& disk) {
      const auto found = at_mark.find(mark);
      if (found == at_mark.end()) return;
      ++seen;
      CHECK((found->second == disk));
    };
    CHECK((replay_dm(file_bytes(out), look) == model));
    CHECK(seen == at_mark.size());
  }
}
