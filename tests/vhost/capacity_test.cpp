// SPDX-License-Identifier: MIT
// If this fails, a guest of our vhost-user server reaches past the end of its disk, or a request
// there is done in part, or is not counted. NBD beside it, where a row is about both.
#include <cerrno>
#include <unistd.h>

#include "nbd_client.hpp"
#include "ours.hpp"

namespace pv::test::vhost {
namespace {

constexpr uint64_t k_capacity_bytes = 8 << 20;
constexpr uint64_t k_capacity_end = k_capacity_bytes / k_sector;

const Changes k_one_error_of_read = {{"io_errors", 1}, {"read/errors", 1}, {"out_of_range", 1}};
const Changes k_one_error_of_write = {{"io_errors", 1}, {"write/errors", 1}, {"out_of_range", 1}};

}  // namespace

TEST_CASE("vhost: capacity is fixed, whatever becomes of the file", "[vhost]") {
  Rig rig({.size = k_capacity_bytes, .file = true});
  REQUIRE(truncate(rig.ours.image().c_str(), 2 * k_capacity_bytes) == 0);
  CHECK(must(rig.blk->config()).capacity == k_capacity_end);
  CHECK(rig.read(k_capacity_end, 512).status == k_ioerr);
  CHECK(rig.write(k_capacity_end, std::string(512, 'x')).status == k_ioerr);
  CHECK(rig.ours.backend()["resized_outside"] == true);
  NbdClient nbd(rig.ours);
  CHECK(nbd.size() == k_capacity_bytes);
  CHECK(nbd.read(k_capacity_bytes, 512) == EINVAL);
  REQUIRE(truncate(rig.ours.image().c_str(), k_capacity_bytes / 2) == 0);
  CHECK(must(rig.blk->config()).capacity == k_capacity_end);
  CHECK(rig.read(k_capacity_end - 1, 512).status == k_ok);
}

TEST_CASE("vhost: a write past the end fails whole, is counted, and writes nothing", "[vhost]") {
  Rig rig({.size = k_capacity_bytes});
  const std::string last = random_bytes(rig.rng, 512);
  REQUIRE(rig.write(k_capacity_end - 1, last).status == k_ok);
  const json before = rig.ours.counters();
  const BlkReply reply = rig.write(k_capacity_end - 1, std::string(1024, 'x'));
  CHECK(reply.status == k_ioerr);
  CHECK(reply.used_length == 1);
  CHECK(changes(before, rig.ours.counters()) == k_one_error_of_write);
  CHECK(rig.ours.content(k_capacity_bytes - 512, 512) == last);
  NbdClient nbd(rig.ours);
  CHECK(nbd.write(k_capacity_bytes - 512, std::string(1024, 'x')) == ENOSPC);
  CHECK(rig.ours.content(k_capacity_bytes - 512, 512) == last);
}

TEST_CASE("vhost: a read past the end fails whole and brings nothing", "[vhost]") {
  Rig rig({.size = k_capacity_bytes});
  REQUIRE(rig.write(k_capacity_end - 1, std::string(512, 'x')).status == k_ok);
  const json before = rig.ours.counters();
  const BlkReply reply = rig.read(k_capacity_end - 1, 1024);
  CHECK(reply.status == k_ioerr);
  CHECK(reply.used_length == 1);
  CHECK(reply.data == std::string(1024, '\xdd'));
  CHECK(changes(before, rig.ours.counters()) == k_one_error_of_read);
  NbdClient nbd(rig.ours);
  CHECK(nbd.read(k_capacity_bytes - 512, 1024) == EINVAL);
}

TEST_CASE("vhost: sectors whose product or sum wraps are past the end", "[vhost]") {
  Rig rig({.size = k_capacity_bytes});
  const uint64_t k_wrap = uint64_t{1} << 55;  // times 512: zero
  for (const uint64_t sector :
       {k_capacity_end, k_capacity_end + 1, k_wrap, k_wrap + 1, k_wrap - 1, UINT64_MAX,
        UINT64_MAX - 1, uint64_t{1} << 63, UINT64_MAX / k_sector}) {
    CAPTURE(sector);
    const json before = rig.ours.counters();
    CHECK(rig.read(sector, 512).status == k_ioerr);
    CHECK(rig.write(sector, std::string(1024, 'x')).status == k_ioerr);
    CHECK(must(rig.blk->discard({{sector, 1, 0}})).status == k_ioerr);
    CHECK(must(rig.blk->write_zeroes({{sector, 1, 0}})).status == k_ioerr);
    CHECK(must(rig.blk->write_zeroes({{1, 0xffffffff, 0}})).status == k_ioerr);
    CHECK(changes(before, rig.ours.counters()).at("io_errors") == 5);
  }
  CHECK(rig.ours.content(0, k_capacity_bytes) == std::string(k_capacity_bytes, '\0'));
  NbdClient nbd(rig.ours);
  for (const uint64_t offset : {UINT64_MAX & ~uint64_t{511}, uint64_t{1} << 63}) {
    CHECK(nbd.read(offset, 512) == EINVAL);
    CHECK(nbd.write(offset, std::string(512, 'x')) == ENOSPC);
  }
}

TEST_CASE("vhost: a request of no bytes is well up to the end, and an error behind it", "[vhost]") {
  Rig rig({.size = k_capacity_bytes});
  for (const uint32_t type : {blk_type::in, blk_type::out}) {
    CAPTURE(type);
    const auto status = [&](uint64_t sector) {
      BlkRequest request{type, sector};
      if (type == blk_type::in) request.in = {0};
      if (type == blk_type::out) request.split = {0};
      return rig.run(request).status;
    };
    CHECK(status(0) == k_ok);
    CHECK(status(k_capacity_end) == k_ok);
    CHECK(status(k_capacity_end + 1) == k_ioerr);
    CHECK(status(UINT64_MAX) == k_ioerr);
  }
}

TEST_CASE("vhost: what a file that was cut no longer has reads as zeroes, counted apart",
          "[vhost]") {
  Rig rig({.size = k_capacity_bytes, .file = true});
  const std::string bytes = random_bytes(rig.rng, 8192);
  REQUIRE(rig.write(1024, bytes).status == k_ok);
  REQUIRE(truncate(rig.ours.image().c_str(), 1024 * 512 + 700) == 0);
  const json before = rig.ours.counters(), below = rig.ours.backend();
  const BlkReply reply = rig.read(1024, 8192);
  CHECK(reply.status == k_ok);
  CHECK(reply.used_length == 8193);
  CHECK(reply.data == bytes.substr(0, 700) + std::string(8192 - 700, '\0'));
  // Delivered is one thing, read another.
  CHECK(changes(before, rig.ours.counters()) ==
        Changes{{"read/completed", 1}, {"read/bytes", 8192}});
  const json after = rig.ours.backend();
  CHECK(after["bytes_backing"].get<int>() - below["bytes_backing"].get<int>() == 700);
  CHECK(after["bytes_zero_filled"].get<int>() - below["bytes_zero_filled"].get<int>() ==
        8192 - 700);
  NbdClient nbd(rig.ours);
  CHECK(nbd.read(1024 * 512, 8192) == 0);
  CHECK(nbd.data == reply.data);
}

TEST_CASE("vhost: a file that is cut after it was read from reads as zeroes too", "[vhost]") {
  Rig rig({.size = k_capacity_bytes, .file = true});
  const std::string bytes = random_bytes(rig.rng, 1 << 20);
  REQUIRE(rig.write(0, bytes).status == k_ok);
  for (int round = 0; round < 3; ++round) REQUIRE(rig.read(0, 1 << 20).data == bytes);
  REQUIRE(truncate(rig.ours.image().c_str(), 0) == 0);
  const BlkReply reply = rig.read(0, 1 << 20);
  CHECK(reply.status == k_ok);
  CHECK((reply.data == std::string(1 << 20, '\0')));
  rig.check_well();
}

TEST_CASE("vhost: a new size reaches the guest, and is then the limit", "[vhost]") {
  Rig rig({.size = k_capacity_bytes, .file = true});
  rig.ours.resize(2 * k_capacity_bytes);
  const Received told = must(rig.driver->backend_request());
  CHECK(told.request == backend_request::config_change);
  CHECK(told.payload.empty());
  CHECK(told.flags == k_version);
  CHECK(must(rig.blk->config()).capacity == 2 * k_capacity_end);
  CHECK(rig.write(2 * k_capacity_end - 1, std::string(512, 'x')).status == k_ok);
  rig.ours.resize(k_capacity_bytes / 2);
  CHECK(must(rig.driver->backend_request()).request == backend_request::config_change);
  CHECK(must(rig.blk->config()).capacity == k_capacity_end / 2);
  CHECK(rig.read(k_capacity_end - 1, 512).status == k_ioerr);
}

}  // namespace pv::test::vhost
