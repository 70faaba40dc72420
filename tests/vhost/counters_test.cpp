// SPDX-License-Identifier: MIT
// If this fails, the counters of a disk that a guest uses over vhost-user do not say what happened
// to it, or forget.
#include <cerrno>

#include "nbd_client.hpp"
#include "ours.hpp"

namespace pv::test::vhost {

TEST_CASE("vhost: requests and their bytes are counted together", "[vhost]") {
  Rig rig;
  NbdClient nbd(rig.ours);
  const json before = rig.ours.counters();
  CHECK(rig.write(0, std::string(4096, 'x')).status == k_ok);
  CHECK(rig.read(0, 8192).status == k_ok);
  CHECK(must(rig.blk->flush()).status == k_ok);
  CHECK(must(rig.blk->discard({{0, 8, 0}, {64, 16, 0}})).status == k_ok);
  CHECK(must(rig.blk->write_zeroes({{8, 8, 0}})).status == k_ok);
  CHECK(must(rig.blk->get_id()).status == k_ok);
  const Changes over_vhost = {
      {"write/completed", 1},   {"write/bytes", 4096},  {"read/completed", 1},
      {"read/bytes", 8192},     {"flush/completed", 1}, {"discard/completed", 1},
      {"discard/bytes", 12288}, {"zero/completed", 1},  {"zero/bytes", 4096}};
  const json now = rig.ours.counters();
  CHECK(changes(before, now) == over_vhost);
  // The same over NBD counts the same.
  CHECK(nbd.write(0, std::string(4096, 'x')) == 0);
  CHECK(nbd.read(0, 8192) == 0);
  CHECK(nbd.flush() == 0);
  CHECK(nbd.trim(0, 12288) == 0);
  CHECK(nbd.zero(4096, 4096) == 0);
  CHECK(changes(now, rig.ours.counters()) == over_vhost);
}

TEST_CASE("vhost: errors are counted by event, in sum and by operation", "[vhost]") {
  Rig rig({.size = 1 << 20});
  const json before = rig.ours.counters();
  CHECK(rig.read(2048, 512).status == k_ioerr);
  CHECK(rig.write(2048, std::string(512, 'x')).status == k_ioerr);
  CHECK(rig.run({blk_type::get_id}).status == k_ioerr);  // malformed: of no operation
  rig.ours.failing().op = blk::Op::flush;
  rig.ours.failing().error = EIO;
  CHECK(must(rig.blk->flush()).status == k_ioerr);
  CHECK(changes(before, rig.ours.counters()) == Changes{{"io_errors", 4},
                                                        {"read/errors", 1},
                                                        {"write/errors", 1},
                                                        {"flush/errors", 1},
                                                        {"out_of_range", 2}});
}

TEST_CASE("vhost: counters survive a reset of the device, a new connection and a new server",
          "[vhost]") {
  Rig rig;
  CHECK(rig.write(0, std::string(512, 'x')).status == k_ok);
  const json before = rig.ours.counters();
  REQUIRE(before["write"]["completed"] == 1);
  must(rig.driver->tell(request::reset_device));
  must(rig.driver->settle());
  CHECK(rig.ours.counters() == before);
  rig.attach_anew();
  CHECK(rig.ours.counters() == before);
  rig.ours.replace();
  rig.attach_anew();
  CHECK(rig.ours.counters() == before);
  CHECK(rig.read(0, 512).data == std::string(512, 'x'));
  CHECK(changes(before, rig.ours.counters()) ==
        Changes{{"read/completed", 1}, {"read/bytes", 512}});
}

TEST_CASE("vhost: a throttle makes requests wait and fails none; a refused one costs nothing",
          "[vhost]") {
  // What is refused for its address must not use up what there is for the others.
  Rig rig({.size = 1 << 20, .layers = {"throttle:iops=200,burst=10ms"}});
  for (int i = 0; i < 1000; ++i) REQUIRE(rig.read(2048, 512).status == k_ioerr);
  for (int i = 0; i < 20; ++i) REQUIRE(rig.read(0, 512).status == k_ok);
  const json now = rig.ours.counters();
  CHECK(now["read"]["completed"] == 20);
  CHECK(now["read"]["errors"] == 1000);
}

TEST_CASE("vhost: what waits for a throttle goes on by itself, without another kick", "[vhost]") {
  Rig rig({.layers = {"throttle:iops=50,burst=1ms"}});
  std::vector<uint16_t> heads;
  for (int i = 0; i < 8; ++i) heads.push_back(must(rig.blk->prepare({blk_type::in, 0, {}, {512}})));
  for (const uint16_t head : heads) rig.blk->queue().stage(head);
  rig.blk->queue().commit();
  rig.blk->queue().kick();
  for (const uint16_t head : heads) CHECK(must(rig.blk->finish(head)).status == k_ok);
}

TEST_CASE("vhost: requests of one queue are carried out in their order", "[vhost]") {
  Rig rig;
  Queue& queue = rig.blk->queue();
  std::vector<uint16_t> heads;
  for (char c = 'a'; c <= 'z'; ++c)
    heads.push_back(must(rig.blk->prepare({blk_type::out, 5, std::string(512, c)})));
  const uint16_t reader = must(rig.blk->prepare({blk_type::in, 5, {}, {512}}));
  heads.push_back(reader);
  for (const uint16_t head : heads) queue.stage(head);
  queue.commit();
  queue.kick();
  for (const uint16_t head : heads) {
    const auto [answered, reply] = must(rig.blk->next());
    CHECK(answered == head);
    CHECK(reply.status == k_ok);
    if (head == reader) CHECK(reply.data == std::string(512, 'z'));
  }
}

}  // namespace pv::test::vhost
