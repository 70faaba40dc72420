// SPDX-License-Identifier: MIT
// If this fails, a guest whose server was killed loses a request, or has one carried out twice.
#include <algorithm>
#include <unistd.h>

#include "ours.hpp"

namespace pv::test::vhost {
namespace {

constexpr const char* k_inflight_stall =
    R"({"id":"s","match":{"op":["read"],"ranges":[[0,512]]},"do":{"kind":"stall"}})";

// As QEMU comes again: with the area that it has, queues from where their used rings are.
void attach(Rig& rig, bool fresh = false) {
  must(rig.driver->connect(rig.ours.socket()));
  must(rig.driver->negotiate());
  must(rig.driver->share_memory());
  if (fresh) must(rig.driver->get_inflight());
  must(rig.driver->set_inflight());
  for (unsigned i = 0; i < rig.driver->queues(); ++i)
    must(rig.driver->start_queue(i, rig.driver->queue(i).used_idx()));
}

void wait_in_flight(Rig& rig, uint64_t wanted) {
  const Deadline deadline = rig.driver->deadline();
  while (rig.ours.counters()["in_flight"] != wanted && !deadline.passed()) sleep_ns(k_ns_per_ms);
  REQUIRE(rig.ours.counters()["in_flight"] == wanted);
}

// A rig with `count` reads under way whose server is gone. Heads in the order of the requests,
// which is not that of their numbers.
std::vector<uint16_t> killed(Rig& rig, size_t count) {
  attach(rig, true);
  rig.check_well();
  rig.ours.add_rule(k_inflight_stall);
  std::vector<uint16_t> heads;
  for (size_t i = 0; i < count; ++i)
    heads.push_back(must(rig.blk->prepare({blk_type::in, 0, {}, {512}})));
  std::rotate(heads.begin(), heads.begin() + 1, heads.end());
  for (const uint16_t head : heads) rig.blk->queue().publish(head);
  rig.blk->queue().kick();
  wait_in_flight(rig, count);
  rig.driver->disconnect();
  while (rig.ours.connections() != 0) sleep_ns(k_ns_per_ms);
  rig.ours.clear_rules();
  wait_in_flight(rig, 0);
  rig.ours.replace();
  return heads;
}

void check_answers(Rig& rig, const std::vector<uint16_t>& heads) {
  for (const uint16_t head : heads) {
    const auto [answered, reply] = must(rig.blk->next());
    CHECK(answered == head);
    CHECK(reply.status == k_ok);
  }
  rig.check_well();
  CHECK_FALSE(rig.blk->queue().has_used());
  must(rig.driver->settle());  // the area is written after the last answer
}

void put_used(Rig& rig, uint16_t head) {
  Queue& queue = rig.blk->queue();
  const uint16_t slot = queue.used_idx() % queue.size();
  const uint64_t status = rig.blk->parts(head).back().addr;
  rig.driver->memory().write(status, std::string(1, '\0'));
  rig.driver->memory().write(queue.used_at() + 4 + 8 * slot, bytes_of(UsedElement{head, 513}));
  queue.set_used_idx(static_cast<uint16_t>(queue.used_idx() + 1));
}

}  // namespace

TEST_CASE("vhost: what a killed server left is answered once each, in its order", "[vhost]") {
  Rig rig({.layers = {"fault"}});
  const std::vector<uint16_t> heads = killed(rig, 5);
  CHECK(rig.blk->queue().used_idx() == 2);
  for (const uint16_t head : heads) CHECK(rig.driver->inflight_state(0, head)->inflight == 1);
  attach(rig);
  check_answers(rig, heads);
  CHECK(rig.blk->queue().used_idx() == 9);
  for (uint16_t i = 0; i < rig.blk->queue().size(); ++i)
    CHECK(rig.driver->inflight_state(0, i)->inflight == 0);
  CHECK(rig.driver->inflight(0)->used_idx == 9);
}

TEST_CASE("vhost: requests that came while there was no server follow those of the killed one",
          "[vhost]") {
  Rig rig({.layers = {"fault"}});
  std::vector<uint16_t> heads = killed(rig, 3);
  for (int i = 0; i < 3; ++i) heads.push_back(must(rig.blk->submit({blk_type::in, 8, {}, {512}})));
  attach(rig);
  check_answers(rig, heads);
}

TEST_CASE("vhost: an answer that the guest has seen is not given again", "[vhost]") {
  Rig rig({.layers = {"fault"}});
  const std::vector<uint16_t> heads = killed(rig, 4);
  // Died after the used index, and before the area said so: a batch of two.
  rig.driver->inflight_state(0, heads[0])->next = rig.driver->inflight(0)->last_batch_head;
  rig.driver->inflight_state(0, heads[1])->next = heads[0];
  rig.driver->inflight(0)->last_batch_head = heads[1];
  put_used(rig, heads[0]);
  put_used(rig, heads[1]);
  attach(rig);
  check_answers(rig, heads);
  CHECK(rig.blk->queue().used_idx() == 8);
}

TEST_CASE("vhost: an answer that was put and not shown is given again", "[vhost]") {
  Rig rig({.layers = {"fault"}});
  const std::vector<uint16_t> heads = killed(rig, 3);
  rig.driver->inflight_state(0, heads[0])->next = rig.driver->inflight(0)->last_batch_head;
  rig.driver->inflight(0)->last_batch_head = heads[0];
  attach(rig);
  check_answers(rig, heads);
}

TEST_CASE("vhost: a connection that a fault has cut leaves its request for the next one",
          "[vhost]") {
  Rig rig({.layers = {"fault"}});
  attach(rig, true);
  rig.ours.add_rule(
      R"({"id":"d","match":{"op":["read"]},"when":{"times":1},"do":{"kind":"disconnect"}})");
  const uint16_t head = must(rig.blk->submit({blk_type::in, 0, {}, {512}}));
  must(rig.driver->channel().wait_closed(rig.driver->deadline()));
  CHECK_FALSE(rig.blk->queue().has_used());
  attach(rig);
  check_answers(rig, {head});
}

TEST_CASE("vhost: each queue has its own part of what is in flight", "[vhost]") {
  Options options;
  options.queues = 3;
  Rig rig({.layers = {"fault"}}, options);
  attach(rig, true);
  rig.ours.add_rule(k_inflight_stall);
  std::vector<std::unique_ptr<Blk>> blks;
  std::vector<uint16_t> heads;
  for (unsigned i = 0; i < 3; ++i) {
    blks.push_back(std::make_unique<Blk>(*rig.driver, i));
    for (unsigned k = 0; k < i; ++k) must(blks[i]->read(8, 512));
    heads.push_back(must(blks[i]->submit({blk_type::in, 0, {}, {512}})));
  }
  wait_in_flight(rig, 3);
  rig.driver->disconnect();
  rig.ours.clear_rules();
  wait_in_flight(rig, 0);
  attach(rig);
  for (unsigned i = 0; i < 3; ++i) {
    CHECK(must(blks[i]->finish(heads[i])).status == k_ok);
    must(rig.driver->settle());
    CHECK(rig.driver->inflight(i)->used_idx == i + 1);
  }
}

TEST_CASE("vhost: an area of nonsense is of no harm", "[vhost]") {
  Rig rig;
  attach(rig, true);
  rig.driver->disconnect();
  const uint16_t version = GENERATE(uint16_t{0}, uint16_t{1}, uint16_t{0xffff});
  const uint16_t next = GENERATE(uint16_t{0}, uint16_t{127}, uint16_t{128}, uint16_t{0xffff});
  CAPTURE(version, next);
  InflightQueue& area = *rig.driver->inflight(0);
  for (uint16_t i = 0; i < 128; ++i)
    *rig.driver->inflight_state(0, i) = {0xff, {}, next, UINT64_MAX - i % 3};
  area.version = version;
  area.descriptors = 128;
  area.last_batch_head = next;
  area.used_idx = 77;
  attach(rig);
  must(rig.driver->settle());
  rig.attach_anew();
  rig.check_well();
}

TEST_CASE("vhost: an area whose file is cut is of no harm", "[vhost]") {
  Rig rig;
  const Fd file = must(make_memfd("area", 1 << 20));
  must(rig.driver->connect(rig.ours.socket()));
  must(rig.driver->negotiate());
  must(rig.driver->share_memory());
  must(rig.driver->tell(request::set_inflight_fd, bytes_of(Inflight{1 << 20, 0, 1, 128, 0}),
                        {file.get()}));
  must(rig.driver->start_queue(0, 0));
  rig.check_well();
  REQUIRE(ftruncate(file.get(), 0) == 0);
  rig.check_well();
}

}  // namespace pv::test::vhost
