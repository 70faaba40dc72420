// SPDX-License-Identifier: MIT
// If this fails, a queue that is stopped, disabled, moved or watched loses a request, or goes on
// with one that it must not.
#include <unistd.h>

#include "ours.hpp"

namespace pv::test::vhost {
namespace {

constexpr const char* k_queues_stall =
    R"({"id":"s","match":{"op":["read"],"ranges":[[0,512]]},"do":{"kind":"stall"}})";

// A request that is under way until the rules are cleared.
uint16_t stalled(Rig& rig, uint64_t in_flight = 1) {
  const uint16_t head = must(rig.blk->submit({blk_type::in, 0, {}, {512}}));
  const Deadline deadline = rig.driver->deadline();
  while (rig.ours.counters()["in_flight"] != in_flight && !deadline.passed()) sleep_ns(k_ns_per_ms);
  REQUIRE(rig.ours.counters()["in_flight"] == in_flight);
  return head;
}

// Nothing comes: the server has had its chance, since it has answered a message meanwhile.
void check_quiet(Rig& rig) {
  for (int i = 0; i < 3; ++i) must(rig.driver->settle());
  CHECK_FALSE(rig.blk->queue().has_used());
}

}  // namespace

TEST_CASE("vhost: GET_VRING_BASE waits for what is in flight, and the queue goes on", "[vhost]") {
  Rig rig({.layers = {"fault"}});
  rig.check_well();
  rig.ours.add_rule(k_queues_stall);
  const uint16_t head = stalled(rig);
  must(rig.driver->channel().send({request::get_vring_base, bytes_of(VringState{0, 0})},
                                  rig.driver->deadline()));
  rig.ours.connections();
  CHECK_FALSE(rig.driver->channel().receive(Deadline::in_ms(20)));
  CHECK_FALSE(rig.blk->queue().has_used());
  rig.ours.clear_rules();
  const Received reply = must(rig.driver->channel().receive(rig.driver->deadline()));
  REQUIRE(reply.payload == bytes_of(VringState{0, 3}));
  // Answered before the question was.
  CHECK(rig.blk->queue().has_used());
  CHECK(must(rig.blk->finish(head)).status == k_ok);
  must(rig.driver->start_queue(0, 3));
  rig.check_well();
}

TEST_CASE("vhost: a client may go while it waits for its queue to stop", "[vhost]") {
  Rig rig({.layers = {"fault"}});
  rig.ours.add_rule(k_queues_stall);
  stalled(rig);
  const uint32_t ask = GENERATE(uint32_t{request::get_vring_base}, uint32_t{request::reset_device});
  must(rig.driver->channel().send(
      {ask, ask == request::get_vring_base ? bytes_of(VringState{0, 0}) : ""},
      rig.driver->deadline()));
  rig.ours.connections();
  rig.driver->channel() = Channel();  // a server that waits would not answer a farewell
  const Deadline deadline = rig.driver->deadline();
  while (rig.ours.connections() != 0 && !deadline.passed()) sleep_ns(k_ns_per_ms);
  CHECK(rig.ours.connections() == 0);
  // The next one is let in at once; what it asks begins when the first one's request is through.
  rig.attach_anew();
  const uint16_t head = must(rig.blk->submit({blk_type::in, 8, {}, {512}}));
  check_quiet(rig);
  rig.ours.clear_rules();
  CHECK(must(rig.blk->finish(head)).status == k_ok);
}

TEST_CASE("vhost: a disabled queue takes nothing until it is enabled", "[vhost]") {
  Rig rig;
  must(rig.driver->set_vring_enable(0, false));
  const uint16_t head = must(rig.blk->submit({blk_type::in, 0, {}, {512}}));
  rig.blk->queue().kick_always();
  check_quiet(rig);
  must(rig.driver->set_vring_enable(0, true));
  CHECK(must(rig.blk->finish(head)).status == k_ok);
}

TEST_CASE("vhost: stopping a queue leaves it enabled", "[vhost]") {
  Rig rig;
  rig.check_well();
  const uint16_t base = must(rig.driver->stop_queue(0));
  CHECK(base == 2);
  must(rig.driver->set_vring_num(0, rig.blk->queue().size()));
  must(rig.driver->set_vring_base(0, base));
  must(rig.driver->set_vring_addr(0));
  must(rig.driver->set_vring_call(0));
  must(rig.driver->set_vring_kick(0));
  rig.check_well();
}

TEST_CASE("vhost: a stopped queue takes nothing, and then what came meanwhile", "[vhost]") {
  Rig rig;
  rig.check_well();
  const uint16_t base = must(rig.driver->stop_queue(0));
  const uint16_t head = must(rig.blk->submit({blk_type::in, 0, {}, {512}}));
  rig.blk->queue().kick_always();
  check_quiet(rig);
  must(rig.driver->start_queue(0, base));
  CHECK(must(rig.blk->finish(head)).status == k_ok);
}

TEST_CASE("vhost: without the protocol's features a queue runs from its kick on", "[vhost]") {
  Options options;
  options.features = ~(k_f_log_all | k_f_protocol_features);
  Rig rig({}, options);
  CHECK_FALSE(rig.driver->has(k_f_protocol_features));
  rig.check_well();
  must(rig.driver->stop_queue(0));
  must(rig.driver->start_queue(0, rig.blk->queue().used_idx()));
  rig.check_well();
}

TEST_CASE("vhost: as many requests are in flight as the ring is long, on each queue", "[vhost]") {
  Options options;
  options.queue_size = 4;
  options.queues = 2;
  Rig rig({.layers = {"fault"}}, options);
  rig.ours.add_rule(k_queues_stall);
  // The same chain over and over: a guest that does not wait for its answers.
  BlkRequest request{blk_type::in, 0, {}, {512}};
  request.indirect = true;
  const uint16_t head = must(rig.blk->prepare(request));
  Queue& queue = rig.blk->queue();
  for (int i = 0; i < 4; ++i) queue.stage(head);
  queue.commit();
  queue.kick_always();
  const Deadline deadline = rig.driver->deadline();
  while (rig.ours.counters()["in_flight"] != 4 && !deadline.passed()) sleep_ns(k_ns_per_ms);
  for (int i = 0; i < 4; ++i) queue.stage(head);
  queue.commit();
  queue.kick_always();
  check_quiet(rig);
  CHECK(rig.ours.counters()["in_flight"] == 4);
  Blk other(*rig.driver, 1);
  CHECK(must(other.read(8, 512)).status == k_ok);
  rig.ours.clear_rules();
  for (int i = 0; i < 8; ++i) {
    while (!queue.has_used() && !deadline.passed()) sleep_ns(k_ns_per_ms);
    REQUIRE(must(queue.take_keep()).has_value());
  }
  CHECK(queue.used_idx() == 8);
}

TEST_CASE("vhost: an index too far ahead poisons its queue alone, until it is started again",
          "[vhost]") {
  Options options;
  options.queues = 2;
  Rig rig({}, options);
  Blk other(*rig.driver, 1);
  rig.check_well();
  const json before = rig.ours.counters();
  Queue& queue = rig.blk->queue();
  queue.set_avail_idx(static_cast<uint16_t>(queue.avail_idx() + queue.size() + 1));
  queue.kick_always();
  // It is said on the error descriptor.
  uint64_t told = 0;
  const Deadline deadline = rig.driver->deadline();
  while (::read(queue.err_fd(), &told, sizeof told) < 0 && !deadline.passed())
    sleep_ns(k_ns_per_ms);
  CHECK(told == 1);
  CHECK(changes(before, rig.ours.counters()) == Changes{{"io_errors", 1}});
  for (int i = 0; i < 3; ++i) queue.kick_always();
  CHECK(must(other.read(0, 512)).status == k_ok);
  // An index that is right again heals nothing.
  queue.set_avail_idx(2);
  queue.kick_always();
  check_quiet(rig);
  CHECK(changes(before, rig.ours.counters()).at("io_errors") == 1);
  CHECK(must(rig.driver->stop_queue(0)) == 2);
  must(rig.driver->start_queue(0, 2));
  rig.check_well();
  CHECK(must(other.read(0, 512)).status == k_ok);
}

TEST_CASE("vhost: the memory table changes while requests run", "[vhost]") {
  Options options;
  options.memory_slots = GENERATE(false, true);
  Rig rig({.layers = {"fault"}}, options);
  CAPTURE(options.memory_slots);
  Memory& memory = rig.driver->memory();
  const MemoryRegion more{0x200000000, 1 << 20, 0x530000000000, 0};
  const std::string bytes = random_bytes(rig.rng, 512);
  REQUIRE(rig.write(0, bytes).status == k_ok);
  rig.ours.add_rule(k_queues_stall);
  const size_t number = must(memory.add(more));
  if (options.memory_slots) must(rig.driver->add_region(number));
  if (!options.memory_slots) must(rig.driver->set_mem_table());
  // Into the region that goes while it is under way: the server still has its file.
  BlkRequest request{blk_type::in, 0, {}, {512}};
  request.region = 2;
  const uint16_t leaving = must(rig.blk->submit(request));
  const Fd file(dup(memory.fd(2)));
  const uint64_t at = rig.blk->parts(leaving)[1].addr - more.guest;
  stalled(rig, 2);
  if (options.memory_slots) must(rig.driver->remove_region(more));
  memory.remove(2);
  if (!options.memory_slots) must(rig.driver->set_mem_table());
  CHECK(rig.read(8, 512).status == k_ok);
  rig.ours.clear_rules();
  CHECK(must(rig.blk->finish(leaving)).status == k_ok);
  std::string arrived(512, '\0');
  REQUIRE(pread(file.get(), arrived.data(), 512, static_cast<off_t>(at)) == 512);
  CHECK(arrived == bytes);
}

TEST_CASE("vhost: a table without the rings of a queue that runs ends the connection", "[vhost]") {
  Rig rig;
  must(rig.driver->channel().send({request::set_mem_table, bytes_of(VringState{0, 0})},
                                  rig.driver->deadline()));
  must(rig.driver->channel().wait_closed(rig.driver->deadline()));
  rig.attach_anew();
  rig.check_well();
}

TEST_CASE("vhost: every page that is written is in the log, and no other", "[vhost]") {
  Options options;
  options.features = ~uint64_t{0};
  Rig rig({.layers = {"fault"}}, options);
  REQUIRE(rig.driver->has(k_f_log_all));
  must(rig.driver->set_log());
  must(rig.driver->set_vring_addr(0, k_vring_f_log));
  BlkRequest request{blk_type::in, 0, {}, {8192}};
  request.region = 1;
  const auto logged = [&](const BlkRequest& one, bool data) {
    rig.driver->clear_log();
    const uint16_t head = must(rig.blk->submit(one));
    const std::vector<Segment> parts = rig.blk->parts(head);
    must(rig.blk->finish(head));
    must(rig.driver->settle());  // the used ring is logged after the answer
    for (size_t i = 1; i + 1 < parts.size(); ++i)
      for (uint64_t at = parts[i].addr; at < parts[i].addr + parts[i].len; at += 4096)
        CHECK(rig.driver->logged(at) == data);
    CHECK(rig.driver->logged(parts.back().addr));
    CHECK(rig.driver->logged(rig.blk->queue().used_at()));
  };
  logged(request, true);
  BlkRequest out{blk_type::out, 0, std::string(8192, 'x')};
  out.region = 1;
  logged(out, false);
  // A read that fails may have brought some of its data.
  rig.ours.add_rule(R"({"id":"e","match":{"op":["read"]},"do":{"kind":"short","bytes":512}})");
  logged(request, true);
}

TEST_CASE("vhost: a pause holds new requests, a freeze the answers too", "[vhost]") {
  Rig rig({.layers = {"fault"}});
  rig.ours.on([&] { rig.ours.server().pause(); });
  const uint16_t paused = must(rig.blk->submit({blk_type::in, 8, {}, {512}}));
  check_quiet(rig);
  rig.ours.on([&] { rig.ours.server().resume(); });
  CHECK(must(rig.blk->finish(paused)).status == k_ok);
  rig.ours.add_rule(k_queues_stall);
  const uint16_t frozen = stalled(rig);
  rig.ours.on([&] { rig.ours.server().freeze(); });
  rig.ours.clear_rules();
  const uint16_t later = must(rig.blk->submit({blk_type::in, 8, {}, {512}}));
  check_quiet(rig);
  rig.ours.on([&] { rig.ours.server().thaw(); });
  CHECK(must(rig.blk->finish(frozen)).status == k_ok);
  CHECK(must(rig.blk->finish(later)).status == k_ok);
}

}  // namespace pv::test::vhost
