// SPDX-License-Identifier: MIT
// If this fails, discards and zeroes of a vhost-user guest reach other sectors than it named, or
// some of them although the request failed.
#include "nbd_client.hpp"
#include "ours.hpp"

namespace pv::test::vhost {
namespace {

constexpr uint64_t k_discard_bytes = 1 << 20;
constexpr uint64_t k_discard_end = k_discard_bytes / k_sector;

struct Filled : Rig {
  std::string disk;
  explicit Filled(Served served = {}) : Rig((served.size = k_discard_bytes, served)) {
    disk = random_bytes(rng, k_discard_bytes);
    REQUIRE(write(0, disk).status == k_ok);
  }
  void clear(uint64_t sector, uint64_t sectors) {
    disk.replace(sector * k_sector, sectors * k_sector, sectors * k_sector, '\0');
  }
  bool is_as_told() { return ours.content(0, k_discard_bytes) == disk; }
};

}  // namespace

TEST_CASE("vhost: several ranges of zeroes and of a discard in one request", "[vhost]") {
  const bool file = GENERATE(false, true);
  Filled rig({.file = file});
  NbdClient nbd(rig.ours);
  CHECK(must(rig.blk->write_zeroes({{8, 1, 0}, {100, 50, k_unmap}, {k_discard_end - 1, 1, 0}}))
            .status == k_ok);
  rig.clear(8, 1);
  rig.clear(100, 50);
  rig.clear(k_discard_end - 1, 1);
  CHECK(rig.is_as_told());
  CHECK(must(rig.blk->discard({{0, 8, 0}, {512, 128, 0}})).status == k_ok);
  rig.clear(0, 8);
  rig.clear(512, 128);
  CHECK(rig.is_as_told());
  CHECK(nbd.trim(16 * k_sector, 4096) == 0);
  CHECK(nbd.zero(32 * k_sector, 4096) == 0);
  rig.clear(16, 8);
  rig.clear(32, 8);
  CHECK(rig.is_as_told());
}

TEST_CASE("vhost: one range past the end fails the request before any other is touched",
          "[vhost]") {
  Filled rig;
  for (const uint32_t type : {blk_type::discard, blk_type::write_zeroes})
    for (const BlkRange& bad : {BlkRange{k_discard_end, 1, 0},
                                {k_discard_end - 1, 2, 0},
                                {0, UINT32_MAX, 0},
                                {UINT64_MAX, 1, 0}}) {
      const json before = rig.ours.counters();
      BlkRequest request{type, 0, bytes_of(BlkRange{0, 8, 0}) + bytes_of(bad)};
      CHECK(rig.run(request).status == k_ioerr);
      CHECK(changes(before, rig.ours.counters()).at("io_errors") == 1);
    }
  CHECK(rig.is_as_told());
}

TEST_CASE("vhost: a range of no sectors does nothing", "[vhost]") {
  Filled rig;
  CHECK(must(rig.blk->discard({{0, 0, 0}})).status == k_ok);
  CHECK(must(rig.blk->write_zeroes({{5, 0, 0}, {6, 1, 0}, {7, 0, 0}})).status == k_ok);
  rig.clear(6, 1);
  CHECK(rig.is_as_told());
}

TEST_CASE("vhost: flags of a range that nobody knows are UNSUPP and do nothing", "[vhost]") {
  Filled rig;
  for (const uint32_t flags : {2U, 3U, 0x80000000U, UINT32_MAX}) {
    CAPTURE(flags);
    CHECK(must(rig.blk->write_zeroes({{0, 8, 0}, {8, 8, flags}})).status == k_unsupp);
    CHECK(must(rig.blk->discard({{0, 8, 0}, {8, 8, flags}})).status == k_unsupp);
  }
  // A discard knows not even this one (5.2.6.2).
  CHECK(must(rig.blk->discard({{0, 8, k_unmap}})).status == k_unsupp);
  CHECK(rig.is_as_told());
}

TEST_CASE("vhost: ranges that are no whole number of ranges, or too many, are refused", "[vhost]") {
  Filled rig;
  const std::string range = bytes_of(BlkRange{0, 1, 0});
  const uint32_t most = must(rig.blk->config()).max_discard_seg;
  std::string many;
  for (uint32_t i = 0; i < most; ++i) many += bytes_of(BlkRange{i, 0, 0});
  for (const uint32_t type : {blk_type::discard, blk_type::write_zeroes}) {
    CHECK(rig.run({type, 0, range.substr(0, 15)}).status == k_ioerr);
    CHECK(rig.run({type, 0, range + "x"}).status == k_ioerr);
    CHECK(rig.run({type, 0, ""}).status == k_ioerr);
    CHECK(rig.run({type, 0, many + range}).status == k_ioerr);
    CHECK(rig.run({type, 0, std::string(1 << 20, '\0')}).status == k_ioerr);
    CHECK(rig.run({type, 0, many}).status == k_ok);
  }
  CHECK(rig.is_as_told());
}

TEST_CASE("vhost: ranges may be cut into descriptors anyhow", "[vhost]") {
  Filled rig;
  BlkRequest request{blk_type::write_zeroes, 0,
                     bytes_of(BlkRange{1, 2, 0}) + bytes_of(BlkRange{9, 1, 0})};
  request.split = {1, 0, 20, 3};
  CHECK(rig.run(request).status == k_ok);
  rig.clear(1, 2);
  rig.clear(9, 1);
  CHECK(rig.is_as_told());
}

TEST_CASE("vhost: a disk that ignores discards does not offer them, and takes zeroes", "[vhost]") {
  Filled rig({.discard = blk::DiscardBehaviour::ignored});
  CHECK_FALSE(rig.driver->has(k_blk_discard));
  CHECK(rig.driver->has(k_blk_write_zeroes));
  CHECK(must(rig.blk->write_zeroes({{0, 4, k_unmap}})).status == k_ok);
  rig.clear(0, 4);
  CHECK(rig.is_as_told());
}

TEST_CASE("vhost: requests that are no whole number of sectors are refused", "[vhost]") {
  Filled rig;
  for (const uint32_t bytes : {1U, 511U, 513U, 1000U}) {
    CAPTURE(bytes);
    CHECK(rig.read(0, bytes).status == k_ioerr);
    CHECK(rig.write(0, std::string(bytes, 'x')).status == k_ioerr);
  }
  CHECK(rig.is_as_told());
}

TEST_CASE("vhost: a disk of larger sectors says so, and refuses parts of one", "[vhost]") {
  Filled rig({.sector_size = 4096});
  const BlkConfig config = must(rig.blk->config());
  CHECK(config.blk_size == 4096);
  CHECK(config.capacity == k_discard_end);
  CHECK(config.discard_sector_alignment == 8);
  CHECK(rig.read(8, 4096).data == rig.disk.substr(4096, 4096));
  CHECK(rig.read(0, 512).status == k_ioerr);
  CHECK(rig.write(1, std::string(4096, 'x')).status == k_ioerr);
  CHECK(must(rig.blk->write_zeroes({{8, 1, 0}})).status == k_ioerr);
  CHECK(must(rig.blk->write_zeroes({{8, 8, 0}})).status == k_ok);
  rig.clear(8, 8);
  CHECK(rig.is_as_told());
}

}  // namespace pv::test::vhost
