// SPDX-License-Identifier: MIT
// If this fails, the conversation with a front end is not the protocol's: what is acknowledged,
// what ends the connection, and that one client's nonsense is of no harm to the next.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "ours.hpp"

namespace pv::test::vhost {
namespace {

// Sends it as it stands, with a word wanted: 0 is done, 1 refused, -1 hung up on.
int word(Driver& driver, const Message& message) {
  Message asking = message;
  asking.flags |= k_need_reply;
  if (!driver.channel().send(asking, driver.deadline())) return -1;
  const auto reply = driver.channel().receive(driver.deadline());
  if (!reply) return -1;
  uint64_t value = 0;
  REQUIRE(reply->payload.size() == sizeof value);
  REQUIRE(reply->request == message.request);
  REQUIRE(reply->flags == (k_version | k_reply));
  std::memcpy(&value, reply->payload.data(), sizeof value);
  return value == 0 ? 0 : 1;
}

struct Bad {
  const char* what;
  Message message;
};

std::string of(uint64_t value) {
  return bytes_of(value);
}

// Each is refused, where a word is wanted, and nothing else happens.
void check_refused(Rig& rig, const std::vector<Bad>& all) {
  for (const Bad& bad : all) {
    CAPTURE(bad.what);
    CHECK(word(*rig.driver, bad.message) == 1);
    rig.check_well();
  }
}

}  // namespace

TEST_CASE("vhost: a reset of the device is acknowledged once", "[vhost]") {
  Rig rig;
  must(rig.driver->tell(request::reset_device));
  must(rig.driver->settle());
  must(rig.driver->tell(request::set_features, bytes_of(rig.driver->features())));
  must(rig.driver->settle());
  // No queue runs until it is set up again.
  must(rig.driver->set_features(rig.driver->offered() & rig.driver->options().features));
  rig.attach_anew();
  rig.check_well();
}

TEST_CASE("vhost: a queue that cannot be is refused where a word is wanted", "[vhost]") {
  Rig rig;
  const uint32_t ring = request::set_vring_num;
  const Fd spare(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const Fd file(open(rig.ours.socket().c_str(), O_PATH | O_CLOEXEC));
  const std::vector<Bad> all = {
      {"a request that is none", {99}},
      {"request 0", {0}},
      {"features that were not offered", {request::set_features, of(uint64_t{1} << 40)}},
      {"features of the wrong length", {request::set_features, "1234"}},
      {"protocol features that were not offered",
       {request::set_protocol_features, of(uint64_t{1} << 50)}},
      {"a ring of no descriptors", {ring, bytes_of(VringState{1, 0})}},
      {"a ring of three", {ring, bytes_of(VringState{1, 3})}},
      {"a ring of 65536", {ring, bytes_of(VringState{1, 65536})}},
      {"a ring of 2^31", {ring, bytes_of(VringState{1, 1U << 31})}},
      {"a ring of a queue that is none", {ring, bytes_of(VringState{64, 128})}},
      {"a ring of the last queue one can name", {ring, bytes_of(VringState{UINT32_MAX, 128})}},
      {"the size of a ring that runs", {ring, bytes_of(VringState{0, 128})}},
      {"the index of a ring that runs", {request::set_vring_base, bytes_of(VringState{0, 0})}},
      {"an index that is none", {request::set_vring_base, bytes_of(VringState{1, 65536})}},
      {"addresses before there is a size",
       {request::set_vring_addr, bytes_of(VringAddr{5, 0, 0, 0, 0, 0})}},
      {"addresses that are none", {request::set_vring_addr, bytes_of(VringAddr{0, 0, 1, 2, 3, 4})}},
      {"addresses of the wrong length", {request::set_vring_addr, std::string(39, '\0')}},
      {"neither on nor off", {request::set_vring_enable, bytes_of(VringState{0, 2})}},
      {"a kick without its descriptor", {request::set_vring_kick, of(0)}},
      {"a kick with two", {request::set_vring_kick, of(0), {spare.get(), spare.get()}}},
      {"a kick with one that is not announced",
       {request::set_vring_kick, of(k_vring_no_fd), {spare.get()}}},
      {"a queue that is to be polled", {request::set_vring_kick, of(k_vring_no_fd)}},
      {"a kick that cannot be waited for", {request::set_vring_kick, of(0), {file.get()}}},
      {"a kick of a ring that has no place", {request::set_vring_kick, of(7), {spare.get()}}},
      {"a call without its descriptor", {request::set_vring_call, of(0)}},
      {"an error descriptor that is three",
       {request::set_vring_err, of(0), {spare.get(), spare.get(), spare.get()}}},
  };
  check_refused(rig, all);
}

TEST_CASE("vhost: memory that cannot be is refused where a word is wanted", "[vhost]") {
  Rig rig;
  const Fd spare(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const MemoryRegion region = rig.driver->memory().region(0);
  const int memory = rig.driver->memory().fd(0);
  const auto slot = [&](MemoryRegion at) { return bytes_of(SingleRegion{0, at}); };
  const MemoryRegion elsewhere{0x900000000, 1 << 20, 0x600000000000, 0};
  const auto with = [&](auto change) {
    MemoryRegion at = elsewhere;
    change(at);
    return slot(at);
  };
  const std::vector<Bad> all = {
      {"a table of no length", {request::set_mem_table, ""}},
      {"a table that is shorter than it says",
       {request::set_mem_table, bytes_of(VringState{1, 0})}},
      {"a table of too many", {request::set_mem_table, bytes_of(VringState{UINT32_MAX, 0})}},
      {"a table of nine",
       {request::set_mem_table, bytes_of(VringState{9, 0}) + std::string(9 * 32, '\0')}},
      {"a table without its descriptor",
       {request::set_mem_table, bytes_of(VringState{1, 0}) + bytes_of(region)}},
      {"a region without a descriptor", {request::add_mem_reg, slot(elsewhere)}},
      {"a region of no bytes",
       {request::add_mem_reg, with([](auto& at) { at.size = 0; }), {memory}}},
      {"a region that wraps",
       {request::add_mem_reg, with([](auto& at) { at.guest = UINT64_MAX - 4096; }), {memory}}},
      {"a region whose user address wraps",
       {request::add_mem_reg, with([](auto& at) { at.user = UINT64_MAX - 4096; }), {memory}}},
      {"a region beyond its file",
       {request::add_mem_reg, with([](auto& at) { at.size = uint64_t{1} << 40; }), {memory}}},
      {"a region whose offset wraps",
       {request::add_mem_reg,
        with([](auto& at) { at.mmap_offset = UINT64_MAX - 4096; }),
        {memory}}},
      {"a region in no file", {request::add_mem_reg, slot(elsewhere), {spare.get()}}},
      {"a region over another", {request::add_mem_reg, slot(region), {memory}}},
      {"the removal of what is not there", {request::rem_mem_reg, slot(elsewhere)}},
      {"the removal of a part", {request::rem_mem_reg, with([&](auto& at) {
                                   at = region;
                                   at.size /= 2;
                                 })}},
  };
  check_refused(rig, all);
}

TEST_CASE("vhost: other areas that cannot be are refused where a word is wanted", "[vhost]") {
  Rig rig;
  const int memory = rig.driver->memory().fd(0);
  const std::vector<Bad> all = {
      {"a configuration without its bytes",
       {request::set_config, bytes_of(ConfigHeader{32, 1, 0})}},
      {"a configuration of the wrong length", {request::set_config, "1234"}},
      {"no channel for our requests", {request::set_backend_req_fd, ""}},
      {"an area for what is in flight, without a descriptor",
       {request::set_inflight_fd, bytes_of(Inflight{1 << 20, 0, 1, 128, 0})}},
      {"an area that is too small",
       {request::set_inflight_fd, bytes_of(Inflight{64, 0, 1, 128, 0}), {memory}}},
      {"an area beyond its file",
       {request::set_inflight_fd, bytes_of(Inflight{1 << 20, 1 << 27, 1, 128, 0}), {memory}}},
      {"an area whose end wraps",
       {request::set_inflight_fd,
        bytes_of(Inflight{1 << 20, UINT64_MAX - 64, 1, 128, 0}),
        {memory}}},
      {"an area that is not aligned",
       {request::set_inflight_fd, bytes_of(Inflight{1 << 20, 3, 1, 128, 0}), {memory}}},
      {"an area for no queues",
       {request::set_inflight_fd, bytes_of(Inflight{1 << 20, 0, 0, 128, 0}), {memory}}},
  };
  check_refused(rig, all);
}

TEST_CASE("vhost: what cannot be ends the connection where no word is wanted", "[vhost]") {
  Rig rig;
  const MemoryRegion region = rig.driver->memory().region(0);
  const std::string table = bytes_of(VringState{1, 0}) + bytes_of(region);
  std::vector<int> many(20, rig.driver->memory().fd(0));
  Message huge{request::set_features, "12345678"}, version{request::set_features, "12345678"};
  huge.size = 4097;
  version.flags = 2;
  const std::vector<Bad> all = {
      {"a request that is none", {99}},
      {"a length that none has", huge},
      {"another version", version},
      {"more descriptors than there can be", {request::set_mem_table, table, many}},
      {"nine descriptors", {request::get_features, "", {many.begin(), many.begin() + 9}}},
      {"a table without its descriptor", {request::set_mem_table, table}},
      {"a question about a queue that is none",
       {request::get_vring_base, bytes_of(VringState{64, 0})}},
      {"a question of the wrong length", {request::get_vring_base, "123"}},
      {"a log that is none", {request::set_log_base, bytes_of(LogArea{1 << 20, 0})}},
      {"an area for too many queues",
       {request::get_inflight_fd, bytes_of(Inflight{0, 0, 65535, 32768, 0})}},
      {"a configuration without a head", {request::get_config, "123"}},
  };
  for (const Bad& bad : all) {
    CAPTURE(bad.what);
    must(rig.driver->channel().send(bad.message, rig.driver->deadline()));
    must(rig.driver->channel().wait_closed(rig.driver->deadline()));
    rig.attach_anew();
    rig.check_well();
  }
}

TEST_CASE("vhost: parts of the configuration can be read, and what is beyond it cannot",
          "[vhost]") {
  Rig rig;
  const std::string whole = must(rig.driver->get_config(0, 256));
  CHECK(must(rig.driver->get_config(0, 60)) == whole.substr(0, 60));
  CHECK(must(rig.driver->get_config(20, 4)) == whole.substr(20, 4));
  CHECK(must(rig.driver->get_config(255, 1)) == whole.substr(255));
  for (const auto& [offset, size] :
       {std::pair<uint32_t, uint32_t>{0, 257}, {256, 1}, {UINT32_MAX, 1}, {200, 60}}) {
    const auto refused = rig.driver->get_config(offset, size);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Code::invalid);
  }
}

TEST_CASE("vhost: messages in pieces, and many in one", "[vhost]") {
  Rig rig;
  Channel& channel = rig.driver->channel();
  const std::string one = bytes_of(Header{request::get_features, k_version, 0});
  for (const char c : one + one) {
    must(channel.send_bytes(std::string(1, c), {}, rig.driver->deadline()));
    must(rig.blk->read(0, 512));  // the server is not kept waiting
  }
  for (int i = 0; i < 2; ++i)
    CHECK(must(channel.receive(rig.driver->deadline())).payload.size() == 8);
  std::string many;
  for (int i = 0; i < 50; ++i) many += one;
  must(channel.send_bytes(many, {}, rig.driver->deadline()));
  for (int i = 0; i < 50; ++i) must(channel.receive(rig.driver->deadline()));
  rig.check_well();
}

TEST_CASE("vhost: a client that asks and never listens is hung up on", "[vhost]") {
  Rig rig;
  std::string many;
  for (int i = 0; i < 1000; ++i) many += bytes_of(Header{request::get_features, k_version, 0});
  // Until the answers have filled its socket; then sending fails.
  Result<> sent;
  for (int i = 0; i < 1000 && sent; ++i)
    sent = rig.driver->channel().send_bytes(many, {}, rig.driver->deadline());
  CHECK_FALSE(sent);
  rig.attach_anew();
  rig.check_well();
}

TEST_CASE("vhost: one client at a time; the second is hung up on, and the first does not notice",
          "[vhost]") {
  Rig rig;
  Channel second = must(Channel::connect(rig.ours.socket(), rig.driver->deadline()));
  must(second.wait_closed(rig.driver->deadline()));
  rig.check_well();
  CHECK(rig.ours.connections() == 1);
}

TEST_CASE("vhost: nothing that a client hands over is left when it is gone", "[vhost]") {
  Rig rig;
  rig.attach_anew();
  rig.check_well();
  rig.ours.connections();
  const size_t before = open_descriptors();
  const int memory = rig.driver->memory().fd(0);
  for (int round = 0; round < 20; ++round) {
    must(rig.driver->get_inflight());
    must(rig.driver->set_inflight());
    must(rig.driver->set_log());
    // Descriptors where none belong.
    must(rig.driver->channel().send({request::get_features, "", {memory, memory, memory}},
                                    rig.driver->deadline()));
    must(rig.driver->channel().receive(rig.driver->deadline()));
    // Half a message with its descriptors, and away.
    must(rig.driver->channel().send_bytes("\5", {&memory, 1}, rig.driver->deadline()));
    rig.attach_anew();
    rig.check_well();
  }
  const size_t kept = 1;  // our own of the area for what is in flight
  CHECK(open_descriptors() <= before + kept);
}

TEST_CASE("vhost: no descriptor of a client's keeps the server waiting", "[vhost]") {
  Rig rig;
  Driver& driver = *rig.driver;
  const auto call = [&](int fd) {
    must(driver.tell(request::set_vring_call, of(0), {fd}));
    rig.blk->use(Notify::poll);
    driver.queue().set_used_event(driver.queue().used_idx());
    driver.queue().set_avail_flags(0);
    const uint16_t head = must(rig.blk->submit({blk_type::in, 0, {}, {512}}));
    const Deadline deadline = driver.deadline();
    while (!driver.queue().has_used() && !deadline.passed()) sleep_ns(k_ns_per_ms);
    must(rig.blk->finish(head));
    CHECK(rig.ours.connections() == 1);  // answered by the loop's thread
  };
  SECTION("a counter that is full") {
    const Fd full(eventfd(0, EFD_CLOEXEC));
    const uint64_t most = UINT64_MAX - 1;
    REQUIRE(::write(full.get(), &most, sizeof most) == sizeof most);
    call(full.get());
  }
  SECTION("a pipe whose reader is gone") {
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    close(ends[0]);
    const Fd broken(ends[1]);
    call(broken.get());
  }
  SECTION("a kick that somebody else has read") {
    const Fd kick(eventfd(1, EFD_CLOEXEC));
    must(driver.tell(request::set_vring_kick, of(0), {kick.get()}));
    const uint64_t one = 1;
    for (int i = 0; i < 200; ++i) {
      REQUIRE(::write(kick.get(), &one, sizeof one) == sizeof one);
      uint64_t taken = 0;
      const int flags = fcntl(kick.get(), F_GETFL);
      fcntl(kick.get(), F_SETFL, flags | O_NONBLOCK);
      static_cast<void>(::read(kick.get(), &taken, sizeof taken));
      CHECK((flags & O_NONBLOCK) != 0);
    }
    CHECK(rig.ours.connections() == 1);
  }
}

}  // namespace pv::test::vhost
