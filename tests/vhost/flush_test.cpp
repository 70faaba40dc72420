// SPDX-License-Identifier: MIT
// If this fails, a guest believes that something is safe and it is not: flushes, and writes of a
// device whose cache is off. Also what a read-only disk takes.
#include <cerrno>

#include "nbd_client.hpp"
#include "ours.hpp"

namespace pv::test::vhost {
namespace {

// Whether what the guest has written is stable below once it is answered.
bool write_is_stable(Rig& rig) {
  rig.ours.failing().record();
  REQUIRE(rig.write(16, std::string(1024, 'x')).status == k_ok);
  return rig.ours.failing().stable(16 * k_sector, 1024);
}

bool zeroes_are_stable(Rig& rig) {
  rig.ours.failing().record();
  REQUIRE(must(rig.blk->write_zeroes({{16, 2, 0}})).status == k_ok);
  return rig.ours.failing().stable(16 * k_sector, 1024);
}

Options without(uint64_t features) {
  Options options;
  options.features &= ~features;
  return options;
}

}  // namespace

TEST_CASE("vhost: a flush reaches the disk and makes what came before it stable", "[vhost]") {
  const bool file = GENERATE(false, true);
  Rig rig({.file = file});
  const json before = rig.ours.counters();
  CHECK_FALSE(write_is_stable(rig));
  const BlkReply reply = must(rig.blk->flush());
  CHECK(reply.status == k_ok);
  CHECK(reply.used_length == 1);
  CHECK(rig.ours.failing().stable(16 * k_sector, 1024));
  CHECK(rig.ours.failing().flushes() == 1);
  CHECK(changes(before, rig.ours.counters()).at("flush/completed") == 1);
  NbdClient nbd(rig.ours);
  CHECK(nbd.flush() == 0);
  CHECK(rig.ours.failing().flushes() == 2);
}

TEST_CASE("vhost: a flush that fails is told each time, and what it was for stays unsafe",
          "[vhost]") {
  Rig rig({.layers = {"cache"}});
  NbdClient nbd(rig.ours);
  rig.ours.failing().record();
  REQUIRE(rig.write(0, std::string(512, 'x')).status == k_ok);
  rig.ours.failing().op = blk::Op::flush;
  rig.ours.failing().error = EIO;
  for (int i = 0; i < 3; ++i) CHECK(must(rig.blk->flush()).status == k_ioerr);
  CHECK(nbd.flush() == EIO);
  CHECK(rig.ours.failing().flushes() == 0);
  CHECK_FALSE(rig.ours.failing().stable(0, 512));
  rig.ours.failing().error = 0;
  CHECK(must(rig.blk->flush()).status == k_ok);
  CHECK(rig.ours.failing().stable(0, 512));
  CHECK(rig.ours.counters()["flush"] == json({{"completed", 1}, {"errors", 4}}));
}

TEST_CASE("vhost: a flush can be made to fail by a rule", "[vhost]") {
  Rig rig({.layers = {"fault"}});
  rig.ours.add_rule(R"({"id":"f","match":{"op":["flush"],"front":"vhost-user"},)"
                    R"("do":{"kind":"error","errno":"EIO"}})");
  NbdClient nbd(rig.ours);
  CHECK(must(rig.blk->flush()).status == k_ioerr);
  CHECK(nbd.flush() == 0);
  rig.ours.clear_rules();
  CHECK(must(rig.blk->flush()).status == k_ok);
}

TEST_CASE("vhost: without a way to flush every write is stable when it is answered", "[vhost]") {
  const bool knows_fua = GENERATE(true, false);
  CAPTURE(knows_fua);
  Served served;
  if (!knows_fua) served.layers = {"fua:mode=ignored"};
  Rig rig(served, without(k_blk_flush));
  CHECK(write_is_stable(rig));
  CHECK(zeroes_are_stable(rig));
}

TEST_CASE("vhost: the guest turns the write cache off and on", "[vhost]") {
  Rig rig;
  REQUIRE(rig.driver->has(k_blk_config_wce));
  CHECK(must(rig.blk->config()).wce == 1);
  CHECK_FALSE(write_is_stable(rig));
  must(rig.driver->set_config(offsetof(BlkConfig, wce), std::string(1, '\0')));
  CHECK(must(rig.blk->config()).wce == 0);
  CHECK(write_is_stable(rig));
  CHECK(zeroes_are_stable(rig));
  must(rig.driver->set_config(offsetof(BlkConfig, wce), std::string(1, '\1')));
  CHECK(must(rig.blk->config()).wce == 1);
  CHECK_FALSE(write_is_stable(rig));
}

TEST_CASE("vhost: a new client, and a reset, find the write cache on", "[vhost]") {
  Rig rig;
  must(rig.driver->set_config(offsetof(BlkConfig, wce), std::string(1, '\0')));
  REQUIRE(must(rig.blk->config()).wce == 0);
  must(rig.driver->tell(request::reset_device));
  CHECK(must(rig.blk->config()).wce == 1);
  must(rig.driver->set_config(offsetof(BlkConfig, wce), std::string(1, '\0')));
  rig.attach_anew();
  CHECK(must(rig.blk->config()).wce == 1);
}

TEST_CASE("vhost: no other byte of the configuration can be set", "[vhost]") {
  Rig rig;
  const BlkConfig before = must(rig.blk->config());
  constexpr uint32_t k_wce = offsetof(BlkConfig, wce);
  for (const auto& [offset, size] : {std::pair<uint32_t, size_t>{0, 8},
                                     {k_wce - 1, 1},
                                     {k_wce, 2},
                                     {k_wce + 1, 1},
                                     {0, 60},
                                     {UINT32_MAX, 1}}) {
    CAPTURE(offset, size);
    const auto refused = rig.driver->set_config(offset, std::string(size, '\0'));
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Code::invalid);
  }
  const BlkConfig after = must(rig.blk->config());
  CHECK(bytes_of(before) == bytes_of(after));
}

TEST_CASE("vhost: a read-only disk says so, refuses changes and takes flushes", "[vhost]") {
  Rig rig({.read_only = true});
  CHECK(rig.driver->has(k_blk_ro));
  CHECK_FALSE(rig.driver->has(k_blk_discard));
  CHECK_FALSE(rig.driver->has(k_blk_write_zeroes));
  CHECK(rig.write(0, std::string(512, 'x')).status == k_ioerr);
  CHECK(must(rig.blk->write_zeroes({{0, 1, 0}})).status == k_ioerr);
  CHECK(must(rig.blk->discard({{0, 1, 0}})).status == k_ioerr);
  CHECK(must(rig.blk->flush()).status == k_ok);
  CHECK(rig.read(0, 512).data == std::string(512, '\0'));
  NbdClient nbd(rig.ours);
  CHECK(nbd.is_read_only());
  CHECK(nbd.write(0, std::string(512, 'x')) == EPERM);
  CHECK(nbd.flush() == 0);
}

}  // namespace pv::test::vhost
