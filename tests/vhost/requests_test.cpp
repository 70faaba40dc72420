// SPDX-License-Identifier: MIT
// If this fails, a request's data, its status byte or its used length is not what the device's
// specification says, or an error does not arrive as one. NBD beside it, where a row is about both.
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <sys/resource.h>

#include "nbd_client.hpp"
#include "ours.hpp"

namespace pv::test::vhost {
namespace {

// No file grows beyond that while it lives.
struct FileLimit {
  rlimit before{};
  explicit FileLimit(rlim_t bytes) {
    signal(SIGXFSZ, SIG_IGN);
    REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
    const rlimit now{bytes, before.rlim_max};
    REQUIRE(setrlimit(RLIMIT_FSIZE, &now) == 0);
  }
  ~FileLimit() { setrlimit(RLIMIT_FSIZE, &before); }
};

}  // namespace

TEST_CASE("vhost: reads and writes in any cut are the disk's bytes", "[vhost]") {
  const bool file = GENERATE(false, true);
  Rig rig({.file = file});
  SEED_INFO(rig.seed);
  CAPTURE(file);
  std::string disk(8 << 20, '\0');
  for (int round = 0; round < 300; ++round) {
    const uint64_t sectors = 1 + rig.rng.below(128);
    const uint64_t sector = rig.rng.below(disk.size() / k_sector - sectors + 1);
    const auto bytes = static_cast<uint32_t>(sectors * k_sector);
    std::vector<uint32_t> cut;
    for (uint32_t left = bytes; left != 0;) {
      cut.push_back(static_cast<uint32_t>(rig.rng.below(std::min(left, bytes / 3 + 1) + 1)));
      left -= cut.back();
    }
    BlkRequest request{blk_type::in, sector};
    request.indirect = rig.rng.below(2) == 0;
    request.region = static_cast<int>(rig.rng.below(2));
    if (cut.size() > 100) continue;
    if (rig.rng.below(2) == 0) {
      request.type = blk_type::out;
      request.out = random_bytes(rig.rng, bytes);
      request.split = cut;
      disk.replace(sector * k_sector, bytes, request.out);
      const BlkReply reply = rig.run(request);
      REQUIRE(reply.status == k_ok);
      REQUIRE(reply.used_length == 1);
    } else {
      request.in = cut;
      const BlkReply reply = rig.run(request);
      REQUIRE(reply.status == k_ok);
      REQUIRE(reply.used_length == bytes + 1);
      REQUIRE((reply.data == disk.substr(sector * k_sector, bytes)));
    }
  }
  CHECK((rig.ours.content(0, disk.size()) == disk));
}

TEST_CASE("vhost: the used length of a read is what was delivered and the status", "[vhost]") {
  Rig rig;
  CHECK(rig.read(0, 512).used_length == 513);
  CHECK(rig.read(0, 65'536).used_length == 65'537);
  rig.ours.failing().op = blk::Op::read;
  rig.ours.failing().error = EIO;
  const BlkReply failed = rig.read(0, 512);
  CHECK(failed.status == k_ioerr);
  CHECK(failed.used_length == 1);
}

TEST_CASE("vhost: the used length of a write is the status alone", "[vhost]") {
  Rig rig;
  CHECK(rig.write(0, std::string(65'536, 'x')).used_length == 1);
  rig.ours.failing().op = blk::Op::write;
  rig.ours.failing().error = EIO;
  CHECK(rig.write(0, std::string(512, 'x')).used_length == 1);
}

TEST_CASE("vhost: a write in part is an error, counted and never tried again", "[vhost]") {
  Rig rig({.file = true});
  NbdClient nbd(rig.ours);
  const json before = rig.ours.counters();
  int over_nbd = 0;
  BlkReply reply;
  {
    const FileLimit limit(4 << 20);
    reply = rig.write((4 << 20) / k_sector - 1, std::string(1024, 'x'));
    over_nbd = nbd.write((4 << 20) - 1024, std::string(2048, 'y'));
  }
  CHECK(reply.status == k_ioerr);
  CHECK(reply.used_length == 1);
  CHECK(over_nbd == ENOSPC);
  CHECK(rig.ours.backend()["short_writes"] == 2);
  CHECK(changes(before, rig.ours.counters()) == Changes{{"io_errors", 2}, {"write/errors", 2}});
  CHECK(rig.ours.content(4 << 20, 1024) == std::string(1024, '\0'));
}

TEST_CASE("vhost: a hard error is IOERR, and counted", "[vhost]") {
  Rig rig;
  NbdClient nbd(rig.ours);
  const int error = GENERATE(EIO, ENOSPC, EINVAL, EPERM, ENODATA, EBADE, EROFS, ETIMEDOUT);
  const auto op = GENERATE(blk::Op::read, blk::Op::write, blk::Op::flush);
  CAPTURE(error, blk::op_name(op));
  const json before = rig.ours.counters();
  rig.ours.failing().op = op;
  rig.ours.failing().error = error;
  const auto ask = [&] {
    if (op == blk::Op::read) return rig.read(0, 512);
    if (op == blk::Op::write) return rig.write(0, std::string(512, 'x'));
    return must(rig.blk->flush());
  };
  CHECK(ask().status == k_ioerr);
  CHECK(changes(before, rig.ours.counters()) ==
        Changes{{"io_errors", 1}, {std::string(blk::op_name(op)) + "/errors", 1}});
  const int over_nbd = op == blk::Op::read    ? nbd.read(0, 512)
                       : op == blk::Op::write ? nbd.write(0, std::string(512, 'x'))
                                              : nbd.flush();
  CHECK(over_nbd != 0);
  rig.ours.failing().error = 0;
  CHECK(ask().status == k_ok);
}

TEST_CASE("vhost: descriptors of no length are legal wherever they stand", "[vhost]") {
  Rig rig;
  const std::string bytes = random_bytes(rig.rng, 1024);
  BlkRequest out{blk_type::out, 9, bytes};
  out.split = {0, 512, 0, 0, 512, 0};
  CHECK(rig.run(out).status == k_ok);
  BlkRequest in{blk_type::in, 9};
  in.in = {0, 0, 512, 0, 512, 0};
  const BlkReply reply = rig.run(in);
  CHECK(reply.status == k_ok);
  CHECK(reply.used_length == 1025);
  CHECK(reply.data == bytes);
  // Also before the header, and at an address where there is no memory.
  const uint16_t head = must(rig.blk->prepare(in));
  Descriptor& empty = rig.blk->queue().descriptor(rig.blk->queue().descriptor(head).next);
  REQUIRE(empty.len == 0);
  empty.addr = UINT64_MAX;
  rig.blk->queue().publish(head);
  rig.blk->queue().kick();
  CHECK(must(rig.blk->finish(head)).data == bytes);
}

TEST_CASE("vhost: a data descriptor in the wrong direction fails the request, also an empty one",
          "[vhost]") {
  Rig rig;
  const std::string before = rig.ours.content(0, 4096);
  const auto type = GENERATE(uint32_t{blk_type::in}, uint32_t{blk_type::out},
                             uint32_t{blk_type::get_id}, uint32_t{blk_type::discard},
                             uint32_t{blk_type::write_zeroes}, uint32_t{blk_type::flush});
  const uint32_t length = GENERATE(0U, 512U);
  CAPTURE(type, length);
  const bool to_device = type == blk_type::out || type >= blk_type::discard;
  // What the type wants, and one descriptor that goes the other way.
  BlkRequest request{type, 0};
  if (to_device) {
    request.out = bytes_of(BlkRange{0, 1, 0});
    if (type == blk_type::out) request.out.assign(512, 'x');
    request.in = {length};
  } else {
    if (type != blk_type::flush) request.in = {512};
    request.out.assign(length, 'x');
    if (length == 0) request.split = {0};
    if (type == blk_type::flush && length == 0) return;  // nothing, in the direction of a flush
  }
  const json counted = rig.ours.counters();
  const BlkReply reply = rig.run(request);
  CHECK(reply.status == k_ioerr);
  CHECK(reply.used_length == 1);
  CHECK(changes(counted, rig.ours.counters()) == Changes{{"io_errors", 1}});
  CHECK(rig.ours.content(0, 4096) == before);
}

TEST_CASE("vhost: data where there is no memory fails the request, in part or whole", "[vhost]") {
  Rig rig;
  const Memory& memory = rig.driver->memory();
  const MemoryRegion first = memory.region(0);
  const uint64_t nowhere[] = {0,
                              first.guest - 512,
                              first.guest + first.size - 256,
                              first.guest + first.size,
                              uint64_t{1} << 62,
                              UINT64_MAX - 511,
                              UINT64_MAX - 255};
  for (const bool out : {false, true})
    for (const uint64_t address : nowhere) {
      CAPTURE(out, address);
      BlkRequest request{out ? blk_type::out : blk_type::in, 0};
      if (out) request.out.assign(512, 'x');
      if (!out) request.in = {512};
      const uint16_t head = must(rig.blk->prepare(request));
      Queue& queue = rig.blk->queue();
      queue.descriptor(queue.descriptor(head).next).addr = address;
      const json counted = rig.ours.counters();
      queue.publish(head);
      queue.kick();
      const BlkReply reply = must(rig.blk->finish(head));
      CHECK(reply.status == k_ioerr);
      CHECK(reply.used_length == 1);
      CHECK(changes(counted, rig.ours.counters()) == Changes{{"io_errors", 1}});
    }
  CHECK(rig.ours.content(0, 512) == std::string(512, '\0'));
}

TEST_CASE("vhost: a type that is none is UNSUPP and counted nowhere", "[vhost]") {
  Rig rig;
  const uint32_t type = GENERATE(2U, 3U, 5U, 7U, 9U, 10U, 12U, 14U, 99U, 0x80000000U, UINT32_MAX);
  CAPTURE(type);
  const json before = rig.ours.counters();
  BlkRequest request{type, UINT64_MAX};
  request.in = {512};
  const BlkReply reply = rig.run(request);
  CHECK(reply.status == k_unsupp);
  CHECK(reply.used_length == 1);
  CHECK(reply.data == std::string(512, '\xdd'));
  CHECK(rig.ours.counters() == before);
}

TEST_CASE("vhost: the status is there before the answer can be seen", "[vhost]") {
  Rig rig({.layers = {"delay:for=20us"}});
  rig.blk->use(Notify::poll);
  Queue& queue = rig.blk->queue();
  for (int round = 0; round < 500; ++round) {
    const uint16_t head = must(rig.blk->submit({blk_type::in, 0, {}, {512}}));
    const Segment status = rig.blk->parts(head).back();
    const auto* byte = reinterpret_cast<const uint8_t*>(rig.driver->memory().at(status.addr, 1));
    const Deadline deadline = rig.driver->deadline();
    while (!queue.has_used() && !deadline.passed()) {
    }
    REQUIRE(__atomic_load_n(byte, __ATOMIC_ACQUIRE) == k_ok);
    must(rig.blk->finish(head));
  }
}

TEST_CASE("vhost: a chain without a place for the status comes back with nothing written",
          "[vhost]") {
  Rig rig;
  const json before = rig.ours.counters();
  BlkRequest request{blk_type::out, 0, std::string(512, 'x')};
  request.status_bytes = 0;
  CHECK(rig.run(request).used_length == 0);
  // The status at an address that is none.
  for (const uint64_t address : {uint64_t{0}, UINT64_MAX, uint64_t{1} << 63}) {
    const uint16_t head = must(rig.blk->prepare({blk_type::out, 0, std::string(512, 'x')}));
    Queue& queue = rig.blk->queue();
    const uint16_t data = queue.descriptor(head).next;
    queue.descriptor(queue.descriptor(data).next).addr = address;
    queue.publish(head);
    queue.kick();
    CHECK(must(rig.blk->finish(head)).used_length == 0);
  }
  CHECK(changes(before, rig.ours.counters()) == Changes{{"io_errors", 4}});
  CHECK(rig.ours.content(0, 512) == std::string(512, '\0'));
  rig.check_well();
}

}  // namespace pv::test::vhost
