// SPDX-License-Identifier: MIT
// The test front end against QEMU's own server: what the conformance tests of ours rest on. If one
// of these fails, a failure of our server says nothing.

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "base/file.hpp"
#include "driver/blk.hpp"
#include "driver/qsd.hpp"
#include "ours.hpp"

namespace pv::test::vhost {
namespace {

constexpr uint64_t k_image_bytes = 8 << 20;

// A disk of random bytes in qemu-storage-daemon, and a driver that is attached to it.
struct DaemonRig {
  TempDir dir;
  uint64_t seed = test_seed();
  Rng rng{seed};
  std::string content;  // what the disk must hold
  StorageDaemon daemon;
  std::unique_ptr<Driver> driver;

  explicit DaemonRig(const Options& options = {}, bool writable = true) {
    content = random_bytes(rng, k_image_bytes);
    must(write_file_atomic(dir.path("image"), content));
    DaemonOptions wanted{dir.path("image"), dir.path("s"), options.queues, writable};
    daemon = must(StorageDaemon::start(wanted));
    driver = must(Driver::make(options));
    must(driver->attach(daemon.socket()));
  }

  std::string file() const { return must(read_file(dir.path("image"), k_image_bytes)); }
  void put(uint64_t sector, std::string_view bytes) {
    content.replace(sector * k_sector, bytes.size(), bytes);
  }
  std::string part(uint64_t sector, uint64_t bytes) const {
    return content.substr(sector * k_sector, bytes);
  }
};

}  // namespace

TEST_CASE("the vhost-user handshake offers what QEMU's server has", "[vhost-driver]") {
  DaemonRig rig;
  CHECK(rig.driver->has(k_f_version_1));
  CHECK(rig.driver->has(k_f_event_idx));
  CHECK(rig.driver->has(k_f_indirect_desc));
  CHECK(rig.driver->has(k_blk_flush));
  CHECK(rig.driver->has_protocol(k_p_config));
  CHECK(rig.driver->has_protocol(k_p_reply_ack));
  CHECK(rig.driver->queue_limit() == 1);
  CHECK(must(rig.driver->ask_u64(request::get_max_mem_slots)) >= 2);
}

TEST_CASE("vhost-user configuration has the image's capacity", "[vhost-driver]") {
  DaemonRig rig({.queues = 2});
  Blk blk(*rig.driver);
  const BlkConfig config = must(blk.config());
  CHECK(config.capacity == k_image_bytes / k_sector);
  CHECK(config.blk_size == 512);
  CHECK(config.queues == 2);
  CHECK(config.seg_max > 0);
}

TEST_CASE("vhost-user reads and writes are the file's bytes", "[vhost-driver]") {
  DaemonRig rig;
  SEED_INFO(rig.seed);
  const bool indirect = GENERATE(false, true);
  CAPTURE(indirect);
  Blk blk(*rig.driver);
  for (int round = 0; round < 200; ++round) {
    const uint64_t sectors = 1 + rig.rng.below(64);
    const uint64_t sector = rig.rng.below(k_image_bytes / k_sector - sectors + 1);
    const auto bytes = static_cast<uint32_t>(sectors * k_sector);
    BlkRequest request{blk_type::in, sector};
    request.indirect = indirect;
    request.region = static_cast<int>(rig.rng.below(2));
    if (rig.rng.below(2) == 0) {
      request.type = blk_type::out;
      request.out = random_bytes(rig.rng, bytes);
      // No empty segment: QEMU's server is broken by one, though virtio allows it.
      request.split = {1 + static_cast<uint32_t>(rig.rng.below(bytes - 1))};
      rig.put(sector, request.out);
      const BlkReply reply = must(blk.run(request));
      REQUIRE(reply.status == k_ok);
      REQUIRE(reply.used_length == 1);
    } else {
      const auto first = 1 + static_cast<uint32_t>(rig.rng.below(bytes - 1));
      request.in = {first, bytes - first};
      const BlkReply reply = must(blk.run(request));
      REQUIRE(reply.status == k_ok);
      REQUIRE(reply.used_length == bytes + 1);
      REQUIRE(reply.data == rig.part(sector, bytes));
    }
  }
  CHECK(must(blk.flush()).status == k_ok);
  CHECK(rig.file() == rig.content);
}

TEST_CASE("vhost-user: a serial number, and a type that nobody knows", "[vhost-driver]") {
  DaemonRig rig;
  Blk blk(*rig.driver);
  const BlkReply id = must(blk.get_id());
  CHECK(id.status == k_ok);
  CHECK(id.data.size() == k_id_bytes);
  CHECK(id.data != std::string(k_id_bytes, '\xdd'));
  BlkRequest odd;
  odd.type = 99;
  odd.in = {512};
  const BlkReply reply = must(blk.run(odd));
  CHECK(reply.status == k_unsupp);
  CHECK(reply.data == std::string(512, '\xdd'));
}

TEST_CASE("vhost-user discard and write zeroes reach the file", "[vhost-driver]") {
  DaemonRig rig;
  Blk blk(*rig.driver);
  REQUIRE(rig.driver->has(k_blk_discard));
  REQUIRE(rig.driver->has(k_blk_write_zeroes));
  REQUIRE(must(blk.write_zeroes({{8, 16, 0}})).status == k_ok);
  rig.put(8, std::string(16 * k_sector, '\0'));
  REQUIRE(must(blk.write_zeroes({{1024, 256, k_unmap}})).status == k_ok);
  rig.put(1024, std::string(256 * k_sector, '\0'));
  CHECK(must(blk.read(0, 64 * k_sector)).data == rig.part(0, 64 * k_sector));
  REQUIRE(must(blk.discard({{4096, 4096, 0}})).status == k_ok);
  REQUIRE(must(blk.flush()).status == k_ok);
  // What was discarded may read as anything; QEMU's file driver punches a hole.
  rig.put(4096, std::string(4096 * k_sector, '\0'));
  CHECK(rig.file() == rig.content);
}

TEST_CASE("vhost-user requests that the device must refuse", "[vhost-driver]") {
  DaemonRig rig;
  Blk blk(*rig.driver);
  const uint64_t end = k_image_bytes / k_sector;
  CHECK(must(blk.read(end, 512)).status == k_ioerr);
  CHECK(must(blk.write(end - 1, std::string(1024, 'x'))).status == k_ioerr);
  CHECK(must(blk.read(UINT64_MAX / k_sector, 512)).status == k_ioerr);
  CHECK(must(blk.read(end - 1, 512)).data == rig.part(end - 1, 512));
  CHECK(rig.file() == rig.content);
}

TEST_CASE("vhost-user: a read-only export says so and takes no writes", "[vhost-driver]") {
  DaemonRig rig({}, false);
  Blk blk(*rig.driver);
  CHECK(rig.driver->has(k_blk_ro));
  CHECK(must(blk.write(0, std::string(512, 'x'))).status == k_ioerr);
  CHECK(must(blk.read(0, 512)).data == rig.part(0, 512));
}

TEST_CASE("vhost-user rings wrap many times, whatever tells of the answers", "[vhost-driver]") {
  Options options;
  options.queue_size = 8;
  const bool event_idx = GENERATE(false, true);
  const Notify how = GENERATE(Notify::call, Notify::poll);
  if (!event_idx) options.features &= ~k_f_event_idx;
  CAPTURE(event_idx, static_cast<int>(how));
  DaemonRig rig(options);
  REQUIRE(rig.driver->has(k_f_event_idx) == event_idx);
  Blk blk(*rig.driver);
  blk.use(how);
  constexpr int k_requests = 2000;  // 250 times round the ring
  std::map<uint16_t, uint64_t> sectors;
  int submitted = 0, answered = 0;
  while (answered < k_requests) {
    // Three descriptors each: as many as the table takes.
    while (submitted < k_requests && blk.queue().free_descriptors() >= 3) {
      const uint64_t sector = rig.rng.below(k_image_bytes / k_sector);
      sectors[must(blk.submit({blk_type::in, sector, {}, {512}}))] = sector;
      ++submitted;
    }
    const auto [head, reply] = must(blk.next());
    REQUIRE(reply.status == k_ok);
    REQUIRE(reply.data == rig.part(sectors.at(head), 512));
    ++answered;
  }
  CHECK(blk.queue().used_idx() == k_requests);
  CHECK(blk.queue().in_flight() == 0);
  CHECK(blk.queue().free_descriptors() == 8);
}

TEST_CASE("vhost-user indices run past 65535", "[vhost-driver]") {
  DaemonRig rig;
  Blk blk(*rig.driver);
  Queue& queue = blk.queue();
  must(rig.driver->stop_queue(0));
  queue.reset(65'500);
  must(rig.driver->start_queue(0, 65'500));
  // The same chains again and again, in batches: one step of the index, one kick.
  std::vector<uint16_t> heads;
  for (uint64_t sector = 0; sector < 16; ++sector)
    heads.push_back(must(blk.prepare({blk_type::in, sector, {}, {512}})));
  for (int round = 0; round < 10; ++round) {
    for (const uint16_t head : heads) queue.stage(head);
    queue.commit();
    queue.kick();
    const Deadline deadline = rig.driver->deadline();
    for (size_t answered = 0; answered < heads.size() && !deadline.passed();)
      if (must(queue.take_keep()))
        ++answered;
      else if (!queue.want_call(true))
        queue.wait_call(deadline);
    REQUIRE(queue.in_flight() == 0);
  }
  CHECK(queue.used_idx() == 124);  // 65500 + 160 - 65536
  for (size_t sector = 0; sector < heads.size(); ++sector) {
    const Segment data = blk.parts(heads[sector])[1];
    REQUIRE(rig.driver->memory().read(data.addr, 512) == rig.part(sector, 512));
  }
  CHECK(must(rig.driver->stop_queue(0)) == 124);
}

TEST_CASE("two vhost-user queues serve the same disk", "[vhost-driver]") {
  DaemonRig rig({.queues = 2});
  Blk first(*rig.driver, 0), second(*rig.driver, 1);
  const std::string bytes = random_bytes(rig.rng, 4096);
  REQUIRE(must(first.write(100, bytes)).status == k_ok);
  CHECK(must(second.read(100, 4096)).data == bytes);
  // Both at once.
  const uint16_t one = must(first.submit({blk_type::in, 0, {}, {4096}}));
  const uint16_t other = must(second.submit({blk_type::in, 200, {}, {4096}}));
  CHECK(must(second.finish(other)).data == rig.part(200, 4096));
  CHECK(must(first.finish(one)).data == rig.part(0, 4096));
  CHECK(second.queue().used_idx() == 2);
}

TEST_CASE("a vhost-user queue stops and goes on where it was", "[vhost-driver]") {
  DaemonRig rig;
  Blk blk(*rig.driver);
  for (int i = 0; i < 5; ++i) REQUIRE(must(blk.read(0, 512)).status == k_ok);
  CHECK(must(rig.driver->stop_queue(0)) == 5);
  must(rig.driver->start_queue(0, 5));
  CHECK(must(blk.read(7, 512)).data == rig.part(7, 512));
  CHECK(must(rig.driver->stop_queue(0)) == 6);
}

TEST_CASE("a vhost-user driver attaches again, also to another server", "[vhost-driver]") {
  DaemonRig rig;
  Blk blk(*rig.driver);
  REQUIRE(must(blk.write(3, std::string(512, 'a'))).status == k_ok);
  for (int round = 0; round < 20; ++round) {
    must(rig.driver->attach(rig.daemon.socket()));
    REQUIRE(must(blk.read(3, 512)).data == std::string(512, 'a'));
  }
  // Killed with a request in the ring: the next one finds it there.
  must(rig.driver->stop_queue(0));
  const uint16_t head = must(blk.submit({blk_type::in, 9, {}, {512}}));
  must(rig.daemon.restart());
  CHECK(blk.queue().used_idx() == 21);
  must(rig.driver->attach(rig.daemon.socket()));
  CHECK(must(blk.finish(head)).data == rig.part(9, 512));
}

TEST_CASE("vhost-user memory is added and removed in slots", "[vhost-driver]") {
  Options options;
  options.memory_slots = true;
  DaemonRig rig(options);
  Blk blk(*rig.driver);
  Memory& memory = rig.driver->memory();
  const MemoryRegion more{0x200000000, 1 << 20, 0x530000000000, 0};
  must(rig.driver->add_region(must(memory.add(more))));
  BlkRequest request{blk_type::in, 5, {}, {4096}};
  request.region = 2;
  CHECK(must(blk.run(request)).data == rig.part(5, 4096));
  must(rig.driver->remove_region(more));
  CHECK(must(blk.read(5, 512)).data == rig.part(5, 512));
}

TEST_CASE("without acknowledgements vhost-user requests work the same", "[vhost-driver]") {
  Options options;
  options.protocol_features = k_p_config | k_p_mq;
  DaemonRig rig(options);
  CHECK_FALSE(rig.driver->has_protocol(k_p_reply_ack));
  Blk blk(*rig.driver);
  CHECK(must(blk.read(1, 1024)).data == rig.part(1, 1024));
}

TEST_CASE("pages that a vhost-user server writes are in the log", "[vhost-driver]") {
  Options options;
  options.features |= k_f_log_all;
  DaemonRig rig(options);
  REQUIRE(rig.driver->has(k_f_log_all));
  must(rig.driver->set_log());
  must(rig.driver->set_vring_addr(0, k_vring_f_log));
  Blk blk(*rig.driver);
  const uint16_t head = must(blk.submit({blk_type::in, 0, {}, {8192}}));
  const Segment data = blk.parts(head)[1];
  must(blk.finish(head));
  must(rig.driver->settle());  // the used ring is logged after the answer
  CHECK(rig.driver->logged(data.addr));
  CHECK(rig.driver->logged(data.addr + 4096));
  CHECK(rig.driver->logged(blk.queue().used_at()));
  CHECK_FALSE(rig.driver->logged(data.addr + (1 << 20)));
  rig.driver->clear_log();
  CHECK_FALSE(rig.driver->logged(data.addr));
}

TEST_CASE("raw vhost-user messages: a bad one ends the connection only", "[vhost-driver]") {
  DaemonRig rig;
  Channel& channel = rig.driver->channel();
  // A size that no message has.
  Message bad{request::set_features};
  bad.size = 1 << 20;
  must(channel.send(bad, rig.driver->deadline()));
  must(channel.wait_closed(rig.driver->deadline()));
  const auto after = rig.driver->settle();
  REQUIRE_FALSE(after);
  CHECK(after.error().code == Code::server_dead);
  must(rig.driver->attach(rig.daemon.socket()));
  Blk blk(*rig.driver);
  CHECK(must(blk.read(0, 512)).data == rig.part(0, 512));
}

TEST_CASE("a vhost-user ring can be made illegal by hand", "[vhost-driver]") {
  DaemonRig rig;
  rig.driver->options().limit_ms = 200;
  Blk blk(*rig.driver);
  Queue& queue = blk.queue();
  const bool indirect = GENERATE(false, true);
  BlkRequest request{blk_type::in, 0, {}, {512}};
  request.indirect = indirect;
  const uint16_t head = must(blk.prepare(request));
  SECTION("a loop") {
    Descriptor& second =
        indirect ? *queue.indirect_entry(head, 1) : queue.descriptor(queue.descriptor(head).next);
    second.next = indirect ? 0 : head;
    queue.publish(head);
  }
  SECTION("a head that is no descriptor") {
    queue.publish(queue.size());
  }
  SECTION("an index too far ahead") {
    queue.set_avail_idx(static_cast<uint16_t>(queue.size() + 1));
  }
  SECTION("an address outside of the memory") {
    Descriptor& first = indirect ? *queue.indirect_entry(head, 0) : queue.descriptor(head);
    first.addr = 0x7fffffffffff0000;
    queue.publish(head);
  }
  queue.kick_always();
  // QEMU's server gives up on the device and answers nothing more, until it is set up anew.
  const auto none = blk.next();
  REQUIRE_FALSE(none);
  CHECK(none.error().code == Code::timeout);
  rig.driver->options().limit_ms = 10'000;
  rig.driver->disconnect();
  queue.reset();
  must(rig.driver->attach(rig.daemon.socket()));
  CHECK(must(blk.read(0, 512)).data == rig.part(0, 512));
}

TEST_CASE("a vhost-user chain that is not published is not answered", "[vhost-driver]") {
  DaemonRig rig;
  rig.driver->options().limit_ms = 100;
  Blk blk(*rig.driver);
  const uint16_t head = must(blk.prepare({blk_type::in, 0, {}, {512}}));
  const auto none = blk.finish(head);
  REQUIRE_FALSE(none);
  CHECK(none.error().code == Code::timeout);
  rig.driver->options().limit_ms = 10'000;
  blk.queue().publish(head);
  blk.queue().kick();
  CHECK(must(blk.finish(head)).data == rig.part(0, 512));
}

}  // namespace pv::test::vhost
