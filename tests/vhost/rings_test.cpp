// SPDX-License-Identifier: MIT
// If this fails, a request is lost, answered twice, or not told of, depending on the size of the
// ring, on where its index stands, on how the driver wants to be told, or on how a chain is cut.
#include <set>

#include "ours.hpp"

namespace pv::test::vhost {
namespace {

// Reads of random sectors, as many at once as the table takes, each compared. The disk holds its
// own sector numbers.
void load(Rig& rig, unsigned index, int requests, bool indirect, Notify how = Notify::call) {
  Blk blk(*rig.driver, index);
  blk.use(how);
  std::map<uint16_t, uint64_t> sectors;
  int submitted = 0;
  for (int answered = 0; answered < requests; ++answered) {
    while (submitted < requests && blk.queue().free_descriptors() >= (indirect ? 1 : 3) &&
           sectors.size() < 64) {
      BlkRequest request{blk_type::in, rig.rng.below(2048), {}, {512}};
      request.indirect = indirect;
      sectors[must(blk.submit(request))] = request.sector;
      ++submitted;
    }
    const auto [head, reply] = must(blk.next());
    REQUIRE(reply.status == k_ok);
    uint64_t seen = 0;
    std::memcpy(&seen, reply.data.data(), sizeof seen);
    REQUIRE(seen == sectors.at(head));
    sectors.erase(head);
  }
  REQUIRE(blk.queue().in_flight() == 0);
}

void fill(Rig& rig) {
  std::string disk(1 << 20, '\0');
  for (uint64_t sector = 0; sector < 2048; ++sector)
    std::memcpy(disk.data() + sector * k_sector, &sector, sizeof sector);
  REQUIRE(rig.write(0, disk).status == k_ok);
}

}  // namespace

TEST_CASE("vhost: rings of every size, direct and indirect", "[vhost]") {
  for (const uint32_t size : {1U, 2U, 4U, 8U, 64U, 256U, 1024U, 32768U}) {
    CAPTURE(size);
    Options options;
    options.queue_size = static_cast<uint16_t>(size);
    Rig rig({}, options);
    if (size >= 4) fill(rig);
    if (size >= 4) load(rig, 0, 300, false);
    BlkRequest whole{blk_type::out, 0, std::string(512, '\0')};
    whole.indirect = true;
    REQUIRE(rig.run(whole).status == k_ok);
    if (size >= 4) load(rig, 0, 300, true);
    // A ring of one descriptor: a request is a table.
    for (int i = 0; i < 20; ++i) {
      BlkRequest request{blk_type::in, 0, {}, {512}};
      request.indirect = true;
      REQUIRE(rig.run(request).data == std::string(512, '\0'));
    }
  }
}

TEST_CASE("vhost: calls and kicks by index, by flag, or none at all", "[vhost]") {
  Options options;
  options.queue_size = 8;
  const bool event_idx = GENERATE(false, true);
  const Notify how = GENERATE(Notify::call, Notify::poll);
  const bool slow = GENERATE(false, true);
  if (!event_idx) options.features &= ~k_f_event_idx;
  CAPTURE(event_idx, static_cast<int>(how), slow);
  Served served;
  if (slow) served.layers = {"delay:for=20us"};
  Rig rig(served, options);
  REQUIRE(rig.driver->has(k_f_event_idx) == event_idx);
  fill(rig);
  load(rig, 0, 1000, false, how);
}

TEST_CASE("vhost: the indices of a ring run past 65535", "[vhost]") {
  Options options;
  const bool event_idx = GENERATE(false, true);
  if (!event_idx) options.features &= ~k_f_event_idx;
  Rig rig({}, options);
  fill(rig);
  Queue& queue = rig.blk->queue();
  std::vector<uint16_t> heads;
  for (uint64_t i = 0; i < 32; ++i)
    heads.push_back(must(rig.blk->prepare({blk_type::in, i, {}, {512}})));
  const uint16_t before = queue.used_idx();
  uint64_t staged = 0;
  while (staged < 70'000) {
    for (const uint16_t head : heads) queue.stage(head);
    queue.commit();
    queue.kick();
    staged += heads.size();
    std::set<uint32_t> answered;
    const Deadline deadline = rig.driver->deadline();
    while (answered.size() < heads.size() && !deadline.passed())
      if (const auto used = must(queue.take_keep())) answered.insert(used->id);
    REQUIRE(answered.size() == heads.size());
  }
  CHECK(queue.used_idx() == static_cast<uint16_t>(before + staged));
}

TEST_CASE("vhost: queues of their own, two and as many as there may be", "[vhost]") {
  const unsigned queues = GENERATE(2U, 64U);
  Options options;
  options.queues = queues;
  options.queue_size = 16;
  Rig rig({}, options);
  CHECK(rig.driver->queue_limit() == 64);
  CHECK(must(rig.blk->config()).queues == 64);
  fill(rig);
  std::vector<std::unique_ptr<Blk>> blks;
  std::vector<uint16_t> heads;
  for (unsigned index = 0; index < queues; ++index) {
    blks.push_back(std::make_unique<Blk>(*rig.driver, index));
    heads.push_back(must(blks[index]->submit({blk_type::in, index, {}, {512}})));
  }
  for (unsigned index = queues; index-- > 0;) {
    const BlkReply reply = must(blks[index]->finish(heads[index]));
    REQUIRE(reply.status == k_ok);
    REQUIRE(reply.data[0] == static_cast<char>(index));
  }
  for (unsigned index = 0; index < queues; ++index) load(rig, index, 20, false);
}

TEST_CASE("vhost: data, header, table and status across two regions of memory", "[vhost]") {
  Options options;
  options.regions = {{0x100000, 1 << 20, 0x510000000000, 0x3000},
                     {0x200000, 1 << 20, 0x520000000000, 0}};
  Rig rig({}, options);
  Memory& memory = rig.driver->memory();
  Queue& queue = rig.blk->queue();
  const uint64_t border = 0x200000;
  // Memory reads and writes of the driver do not cross; done by halves.
  const auto put = [&](uint64_t at, const std::string& bytes) {
    for (size_t i = 0; i < bytes.size(); ++i) memory.write(at + i, bytes.substr(i, 1));
  };
  const auto get = [&](uint64_t at, size_t count) {
    std::string bytes;
    for (size_t i = 0; i < count; ++i) bytes += memory.read(at + i, 1);
    return bytes;
  };
  const std::string bytes = random_bytes(rig.rng, 4096);
  SECTION("data of a write and of a read") {
    put(border - 1000, bytes);
    const uint16_t out = must(rig.blk->prepare({blk_type::out, 7, std::string(4096, 'x')}));
    queue.descriptor(queue.descriptor(out).next).addr = border - 1000;
    queue.publish(out);
    queue.kick();
    CHECK(must(rig.blk->finish(out)).status == k_ok);
    CHECK(rig.ours.content(7 * k_sector, 4096) == bytes);
    put(border - 1000, std::string(4096, '\0'));
    const uint16_t in = must(rig.blk->prepare({blk_type::in, 7, {}, {4096}}));
    queue.descriptor(queue.descriptor(in).next).addr = border - 1000;
    queue.publish(in);
    queue.kick();
    CHECK(must(rig.blk->finish(in)).status == k_ok);
    CHECK(get(border - 1000, 4096) == bytes);
  }
  SECTION("the header") {
    REQUIRE(rig.write(7, bytes).status == k_ok);
    put(border - 9, bytes_of(BlkHeader{blk_type::in, 0, 7}));
    const uint16_t in = must(rig.blk->prepare({blk_type::in, 0, {}, {4096}}));
    queue.descriptor(in).addr = border - 9;
    queue.publish(in);
    queue.kick();
    CHECK(must(rig.blk->finish(in)).data == bytes);
  }
  SECTION("an indirect table") {
    REQUIRE(rig.write(7, bytes).status == k_ok);
    BlkRequest request{blk_type::in, 7, {}, {4096}};
    request.indirect = true;
    const uint16_t in = must(rig.blk->prepare(request));
    const std::string table(reinterpret_cast<const char*>(queue.indirect_entry(in, 0)), 48);
    put(border - 24, table);
    queue.descriptor(in).addr = border - 24;
    queue.publish(in);
    queue.kick();
    CHECK(must(rig.blk->finish(in)).data == bytes);
  }
}

TEST_CASE("vhost: how a request is cut into descriptors means nothing", "[vhost]") {
  Rig rig;
  const std::string bytes = random_bytes(rig.rng, 1024);
  // The header in pieces, and in one with the data.
  const std::string header = bytes_of(BlkHeader{blk_type::out, 0, 4});
  for (const std::vector<uint32_t>& split :
       {std::vector<uint32_t>{1, 15}, {4, 4, 8}, {0, 8, 0, 8}, {16 + 1024}, {15, 1 + 512}}) {
    CAPTURE(split);
    BlkRequest request{0, 0, header + bytes};
    request.split = split;
    request.header_bytes = 0;
    CHECK(rig.run(request).status == k_ok);
    CHECK(rig.ours.content(4 * k_sector, 1024) == bytes);
    REQUIRE(rig.write(4, std::string(1024, '\0')).status == k_ok);
  }
  REQUIRE(rig.write(4, bytes).status == k_ok);
  // The status as the last byte of a descriptor of data.
  BlkRequest request{blk_type::in, 4};
  request.in = {512};
  request.status_bytes = 513;
  const uint16_t head = must(rig.blk->submit(request));
  const Segment last = rig.blk->parts(head).back();
  const BlkReply reply = must(rig.blk->finish(head));
  CHECK(reply.status == k_ok);
  CHECK(reply.used_length == 1025);
  CHECK(reply.data == bytes.substr(0, 512));
  CHECK(rig.driver->memory().read(last.addr, 512) == bytes.substr(512));
}

TEST_CASE("vhost: answers come when they are ready, not in the order of the requests", "[vhost]") {
  Rig rig({.layers = {"fault"}});
  fill(rig);
  rig.ours.add_rule(
      R"({"id":"s","match":{"op":["read"],"ranges":[[0,512]]},"do":{"kind":"stall"}})");
  const uint16_t held = must(rig.blk->submit({blk_type::in, 0, {}, {512}}));
  for (int i = 1; i < 50; ++i) {
    const uint16_t other = must(rig.blk->submit({blk_type::in, 1, {}, {512}}));
    const auto [head, reply] = must(rig.blk->next());
    REQUIRE(head == other);
    REQUIRE(reply.status == k_ok);
  }
  CHECK_FALSE(rig.blk->queue().has_used());
  rig.ours.clear_rules();
  CHECK(must(rig.blk->finish(held)).status == k_ok);
}

TEST_CASE("vhost: the longest request that the configuration allows is carried out", "[vhost]") {
  Options options;
  options.queue_size = 256;
  options.regions = default_regions(128 << 20);
  Rig rig({.size = 64 << 20}, options);
  const BlkConfig config = must(rig.blk->config());
  BlkRequest request{blk_type::out, 0};
  const uint64_t longest = uint64_t{config.seg_max} * config.size_max;
  CHECK(longest >= 16 << 20);
  request.out = random_bytes(rig.rng, longest);
  request.split.assign(config.seg_max, config.size_max);
  request.region = 1;
  REQUIRE(rig.run(request).status == k_ok);
  CHECK((rig.ours.content(0, longest) == request.out));
}

}  // namespace pv::test::vhost
