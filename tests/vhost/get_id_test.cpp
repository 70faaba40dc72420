// SPDX-License-Identifier: MIT
// If this fails, a guest reads a serial number that is not the disk's, or a part of one.
#include "ours.hpp"

namespace pv::test::vhost {

TEST_CASE("vhost: an id is twenty bytes in the first data descriptor", "[vhost]") {
  const std::string serial = GENERATE("", "short", "serial of twenty byt");
  Rig rig({.serial = serial});
  std::string wanted = serial;
  wanted.resize(k_id_bytes, '\0');
  const BlkReply reply = must(rig.blk->get_id());
  CHECK(reply.status == k_ok);
  CHECK(reply.used_length == 21);
  CHECK(reply.data == wanted);
  // More room is left as it is.
  CHECK(must(rig.blk->get_id(64)).data == wanted + std::string(44, '\xdd'));
  BlkRequest request{blk_type::get_id};
  request.in = {20, 20};
  const BlkReply two = rig.run(request);
  CHECK(two.status == k_ok);
  CHECK(two.used_length == 21);
  CHECK(two.data == wanted + std::string(20, '\xdd'));
}

TEST_CASE("vhost: an id for which the first descriptor is too short is refused, not cut",
          "[vhost]") {
  Rig rig;
  for (const std::vector<uint32_t>& in :
       {std::vector<uint32_t>{19}, {1}, {0}, {0, 20}, {10, 10}, {19, 64}}) {
    CAPTURE(in);
    const json before = rig.ours.counters();
    BlkRequest request{blk_type::get_id};
    request.in = in;
    const BlkReply reply = rig.run(request);
    CHECK(reply.status == k_ioerr);
    CHECK(reply.used_length == 1);
    CHECK(reply.data.find_first_not_of('\xdd') == std::string::npos);
    CHECK(changes(before, rig.ours.counters()) == Changes{{"io_errors", 1}});
  }
}

TEST_CASE("vhost: an id without data, or into data that is to be read, is refused", "[vhost]") {
  Rig rig;
  const json before = rig.ours.counters();
  CHECK(rig.run({blk_type::get_id}).status == k_ioerr);
  BlkRequest wrong{blk_type::get_id, 0, std::string(20, 'x')};
  CHECK(rig.run(wrong).status == k_ioerr);
  CHECK(changes(before, rig.ours.counters()) == Changes{{"io_errors", 2}});
}

TEST_CASE("vhost: an id across two regions of memory is whole", "[vhost]") {
  Options options;
  options.regions = {{0x100000, 1 << 20, 0x510000000000, 0},
                     {0x200000, 1 << 20, 0x520000000000, 0}};
  Rig rig({}, options);
  const uint16_t head = must(rig.blk->prepare({blk_type::get_id, 0, {}, {20}}));
  Queue& queue = rig.blk->queue();
  const uint64_t at = 0x200000 - 7;
  queue.descriptor(queue.descriptor(head).next).addr = at;
  queue.publish(head);
  queue.kick();
  CHECK(must(rig.blk->finish(head)).used_length == 21);
  const Memory& memory = rig.driver->memory();
  CHECK(memory.read(at, 7) + memory.read(0x200000, 13) == "serial of twenty byt");
}

}  // namespace pv::test::vhost
