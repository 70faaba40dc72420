// SPDX-License-Identifier: MIT
// If this fails, descriptors that no driver should make are taken for a request, are never given
// back, or bring the server down.
#include <sys/eventfd.h>
#include <unistd.h>

#include "ours.hpp"

namespace pv::test::vhost {
namespace {

// A write of one sector: header, data, status, directly in the ring or in a table.
struct Spoiled {
  Rig& rig;
  uint16_t head;
  bool indirect;
  Descriptor& part(int number) const {
    Queue& queue = rig.blk->queue();
    if (indirect) return *queue.indirect_entry(head, static_cast<uint16_t>(number));
    uint16_t at = head;
    for (int i = 0; i < number; ++i) at = static_cast<uint16_t>(at + 1);
    return queue.descriptor(at);
  }
  Descriptor& table() const { return rig.blk->queue().descriptor(head); }
};

struct Spoiler {
  const char* what;
  bool indirect;
  void (*spoil)(const Spoiled& chain);
};

const Spoiler k_spoilers[] = {
    {"a loop over all", false,
     [](const Spoiled& c) {
       c.part(2).flags |= k_desc_next;
       c.part(2).next = c.head;
     }},
    {"a descriptor that names itself", false, [](const Spoiled& c) { c.part(0).next = c.head; }},
    {"a next one that is none", false, [](const Spoiled& c) { c.part(1).next = 128; }},
    {"a next one that is far off", false, [](const Spoiled& c) { c.part(1).next = UINT16_MAX; }},
    {"a header that ends too early", false, [](const Spoiled& c) { c.part(0).len = 15; }},
    {"a header that we are to write", false,
     [](const Spoiled& c) { c.part(0).flags |= k_desc_write; }},
    {"a header at no memory", false, [](const Spoiled& c) { c.part(0).addr = 16; }},
    {"a header at the very end", false, [](const Spoiled& c) { c.part(0).addr = UINT64_MAX - 3; }},
    {"data that we are to write", false, [](const Spoiled& c) { c.part(1).flags |= k_desc_write; }},
    {"data of 4 GiB", false, [](const Spoiled& c) { c.part(1).len = UINT32_MAX; }},
    {"data that is more than a request may have", false,
     [](const Spoiled& c) { c.part(1).len = (32 << 20) + 512; }},
    {"data whose end wraps", false, [](const Spoiled& c) { c.part(1).addr = UINT64_MAX - 100; }},
    {"a status that is not ours to write", false, [](const Spoiled& c) { c.part(2).flags = 0; }},
    {"a status of no bytes", false, [](const Spoiled& c) { c.part(2).len = 0; }},
    {"a status whose address wraps into memory", false,
     [](const Spoiled& c) {
       c.part(2).addr = uint64_t{0} - 0x100000;
       c.part(2).len = 0x200001;
     }},
    {"a chain that ends with its header", false, [](const Spoiled& c) { c.part(0).flags = 0; }},
    {"a chain that ends with its data", false, [](const Spoiled& c) { c.part(1).flags = 0; }},
    {"a table in the middle", false, [](const Spoiled& c) { c.part(1).flags |= k_desc_indirect; }},
    {"a table that has a next one", true, [](const Spoiled& c) { c.table().flags |= k_desc_next; }},
    {"a table of no bytes", true, [](const Spoiled& c) { c.table().len = 0; }},
    {"a table that is no whole number of descriptors", true,
     [](const Spoiled& c) { c.table().len = 47; }},
    {"a table without its end", true, [](const Spoiled& c) { c.table().len = 32; }},
    {"a table of 4 GiB", true, [](const Spoiled& c) { c.table().len = UINT32_MAX - 15; }},
    {"a table at no memory", true, [](const Spoiled& c) { c.table().addr = 0; }},
    {"a table whose end wraps", true, [](const Spoiled& c) { c.table().addr = UINT64_MAX - 20; }},
    {"a table half in memory", true,
     [](const Spoiled& c) {
       const MemoryRegion region = c.rig.driver->memory().region(0);
       c.table().addr = region.guest + region.size - 16;
     }},
    {"a table in a table", true, [](const Spoiled& c) { c.part(1).flags |= k_desc_indirect; }},
    {"a loop in a table", true,
     [](const Spoiled& c) {
       c.part(2).flags |= k_desc_next;
       c.part(2).next = 0;
     }},
    {"a next one beyond the table", true, [](const Spoiled& c) { c.part(1).next = 3; }},
};

}  // namespace

TEST_CASE("vhost: a chain that is none comes back once, as an error, and does nothing", "[vhost]") {
  Rig rig;
  const size_t free = rig.blk->queue().free_descriptors();
  for (const Spoiler& spoiler : k_spoilers) {
    CAPTURE(spoiler.what);
    rig.attach_anew();
    Queue& queue = rig.blk->queue();
    const json before = rig.ours.counters();
    BlkRequest request{blk_type::out, 0, std::string(512, 'x')};
    request.indirect = spoiler.indirect;
    const uint16_t head = must(rig.blk->prepare(request));
    const uint64_t status_at = rig.blk->parts(head).back().addr;
    spoiler.spoil({rig, head, spoiler.indirect});
    queue.publish(head);
    queue.kick();
    const UsedElement used = must(queue.wait(rig.driver->deadline()));
    CHECK(used.id == head);
    CHECK(used.len <= 1);
    const auto status = static_cast<uint8_t>(rig.driver->memory().read(status_at, 1)[0]);
    CHECK((status == k_ioerr || (status == k_not_written && used.len == 0)));
    CHECK(changes(before, rig.ours.counters()).at("io_errors") == 1);
    must(rig.driver->settle());
    CHECK_FALSE(queue.has_used());
    CHECK(rig.ours.content(0, 512) == std::string(512, '\0'));
  }
  CHECK(rig.blk->queue().free_descriptors() == free);
  rig.check_well();
}

TEST_CASE("vhost: a head that is no descriptor comes back as it came", "[vhost]") {
  Rig rig;
  for (const uint16_t head : {uint16_t{128}, uint16_t{0x8000}, uint16_t{UINT16_MAX}}) {
    rig.blk->queue().publish(head);
    rig.blk->queue().kick();
    const UsedElement used = must(rig.blk->queue().wait(rig.driver->deadline()));
    CHECK(used.id == head);
    CHECK(used.len == 0);
  }
  rig.check_well();
}

TEST_CASE("vhost: without indirect descriptors a table is none", "[vhost]") {
  Options options;
  options.features = ~(k_f_log_all | k_f_indirect_desc);
  Rig rig({}, options);
  BlkRequest request{blk_type::out, 0, std::string(512, 'x')};
  request.indirect = true;
  CHECK(rig.run(request).used_length == 0);
  CHECK(rig.ours.content(0, 512) == std::string(512, '\0'));
  rig.check_well();
}

TEST_CASE("vhost: rings that are not aligned, or lie at the edge of memory", "[vhost]") {
  Rig rig;
  const Memory& memory = rig.driver->memory();
  const MemoryRegion region = memory.region(0);
  const uint64_t at = region.user + (1 << 20), end = region.user + region.size;
  constexpr uint64_t k_table = 64 * 16, k_avail = 6 + 2 * 64, k_used = 6 + 8 * 64;
  must(rig.driver->set_vring_num(1, 64));
  const auto placed = [&](uint64_t table, uint64_t avail, uint64_t used) {
    return rig.driver
        ->tell(request::set_vring_addr, bytes_of(VringAddr{1, 0, table, used, avail, 0}))
        .has_value();
  };
  CHECK(placed(at, at + 4096, at + 8192));
  CHECK(placed(end - k_table, at + 4096, at + 8192));
  CHECK(placed(at, end - k_avail, end - k_used - 2));
  CHECK_FALSE(placed(at + 4, at + 4096, at + 8192));
  CHECK_FALSE(placed(at, at + 4097, at + 8192));
  CHECK_FALSE(placed(at, at + 4096, at + 8194));
  CHECK_FALSE(placed(end - k_table + 16, at + 4096, at + 8192));
  CHECK_FALSE(placed(at, end - k_avail + 2, at + 8192));
  CHECK_FALSE(placed(at, at + 4096, end - k_used + 4));
  CHECK_FALSE(placed(region.guest + (1 << 20), at + 4096, at + 8192));  // not a user's address
  CHECK_FALSE(placed(UINT64_MAX - 15, at + 4096, at + 8192));
  rig.check_well();
}

TEST_CASE("vhost: memory whose file is cut is of no harm to others", "[vhost]") {
  Served served;
  served.file = GENERATE(false, true);
  Rig rig(served);
  CAPTURE(served.file);
  Memory& memory = rig.driver->memory();
  const MemoryRegion more{0x200000000, 1 << 20, 0x530000000000, 0};
  const size_t number = must(memory.add(more));
  must(rig.driver->set_mem_table());
  // A ring in there, that nobody but the server looks at.
  const Fd kick(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  must(rig.driver->set_vring_num(1, 64));
  must(rig.driver->set_vring_base(1, 0));
  must(rig.driver->tell(
      request::set_vring_addr,
      bytes_of(VringAddr{1, 0, more.user, more.user + 8192, more.user + 4096, 0})));
  must(rig.driver->tell(request::set_vring_kick, bytes_of(uint64_t{1}), {kick.get()}));
  must(rig.driver->set_vring_enable(1, true));
  BlkRequest request{blk_type::out, 0, std::string(8192, 'x')};
  request.region = static_cast<int>(number);
  const uint16_t head = must(rig.blk->prepare(request));
  REQUIRE(ftruncate(memory.fd(number), 0) == 0);
  rig.blk->queue().publish(head);
  rig.blk->queue().kick();
  CHECK(must(rig.blk->finish(head)).status <= k_ioerr);
  const uint64_t one = 1;
  REQUIRE(::write(kick.get(), &one, sizeof one) == sizeof one);
  rig.check_well();
  must(rig.driver->settle());
  rig.check_well();
  // And data that would come from the disk.
  const uint16_t in = must(rig.blk->prepare({blk_type::in, 0, {}, {4096}}));
  Queue& queue = rig.blk->queue();
  queue.descriptor(queue.descriptor(in).next).addr = more.guest + 65536;
  queue.publish(in);
  queue.kick();
  CHECK(must(rig.blk->finish(in)).status <= k_ioerr);
  rig.check_well();
}

}  // namespace pv::test::vhost
