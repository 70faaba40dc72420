// SPDX-License-Identifier: MIT
// If one of these fails, a client that was greeted in the server's place is not served as one that
// has come to the server itself.
#include <sys/mman.h>
#include <sys/socket.h>

#include "front/vhost/handover.hpp"
#include "ours.hpp"

namespace pv::test::vhost {
namespace {

struct Doors {
  Fd ours, theirs;
  Doors() {
    int doors[2] = {-1, -1};
    REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, doors) == 0);
    ours.reset(doors[0]);
    theirs.reset(doors[1]);
  }
};

pv::vhost::Said said(uint32_t request, std::string payload, size_t fds) {
  pv::vhost::Said one;
  one.header = {request, pv::vhost::k_version, static_cast<uint32_t>(payload.size())};
  one.payload = std::move(payload);
  for (size_t i = 0; i < fds; ++i) one.fds.emplace_back(memfd_create("x", MFD_CLOEXEC));
  return one;
}

}  // namespace

TEST_CASE("a greeted vhost-user client is served like any other", "[vhost]") {
  Rig rig({.greeted = true}, {.queues = 3});
  SEED_INFO(rig.seed);
  CHECK(rig.driver->has_protocol(k_p_inflight_shmfd));
  const std::string bytes = random_bytes(rig.rng, 8192);
  CHECK(rig.write(16, bytes).status == k_ok);
  CHECK(rig.read(16, 8192).data == bytes);
  CHECK(rig.ours.connections() == 1);
  // The channel that it has brought while it was greeted is the server's.
  rig.ours.resize(9 << 20);
  CHECK(must(rig.driver->backend_request()).request == backend_request::config_change);
  rig.check_well();
}

TEST_CASE("a greeted client asks as often as it likes, and comes again", "[vhost]") {
  Rig rig({.greeted = true});
  for (int i = 0; i < 20; ++i) {
    const auto early = must(Driver::make());
    must(early->connect(rig.ours.socket()));
    CHECK(must(early->ask_u64(request::get_features)) == rig.driver->offered());
  }
  rig.check_well();
  const size_t before = open_descriptors();
  for (int i = 0; i < 5; ++i) rig.attach_anew();
  rig.check_well();
  CHECK(open_descriptors() <= before);
}

TEST_CASE("a server that comes after a killed one takes over greeted clients", "[vhost]") {
  Rig rig({.greeted = true});
  const std::string bytes(4096, 'k');
  CHECK(rig.write(0, bytes).status == k_ok);
  must(rig.driver->get_inflight());
  rig.driver->disconnect();
  rig.ours.replace();
  must(rig.driver->attach(rig.ours.socket()));
  CHECK(rig.read(0, 4096).data == bytes);
}

TEST_CASE("what a greeted client says wrong is the server's to refuse", "[vhost]") {
  Rig rig({.greeted = true});
  rig.driver->disconnect();
  Driver& driver = *rig.driver;
  SECTION("protocol features that were not offered") {
    must(driver.connect(rig.ours.socket()));
    const uint64_t all = ~uint64_t{0};
    static_cast<void>(driver.tell(request::set_protocol_features,
                                  {reinterpret_cast<const char*>(&all), sizeof all}));
    CHECK(driver.channel().wait_closed(driver.deadline()));
  }
  SECTION("a call without its descriptor") {
    must(driver.connect(rig.ours.socket()));
    const uint64_t queue = 0;
    static_cast<void>(driver.tell(request::set_vring_call,
                                  {reinterpret_cast<const char*>(&queue), sizeof queue}));
    CHECK(driver.channel().wait_closed(driver.deadline()));
  }
  SECTION("a request that there is not") {
    must(driver.connect(rig.ours.socket()));
    static_cast<void>(driver.tell(77));
    CHECK(driver.channel().wait_closed(driver.deadline()));
  }
  rig.attach_anew();
  rig.check_well();
}

TEST_CASE("a handover arrives as it was sent, with its descriptors", "[vhost]") {
  Doors doors;
  pv::vhost::Handover sent;
  sent.socket.reset(memfd_create("s", MFD_CLOEXEC));
  sent.said.push_back(said(3, "", 0));
  sent.said.push_back(said(13, std::string(8, 'c'), 1));
  sent.said.push_back(said(5, std::string(72, 'm'), 2));
  must(pv::vhost::send_handover(doors.ours.get(), sent));
  const auto got = must(pv::vhost::receive_handover(doors.theirs.get()));
  REQUIRE(got.said.size() == 3);
  CHECK(got.socket);
  for (size_t i = 0; i < 3; ++i) {
    CHECK(got.said[i].header.request == sent.said[i].header.request);
    CHECK(got.said[i].payload == sent.said[i].payload);
    CHECK(got.said[i].fds.size() == sent.said[i].fds.size());
  }
  CHECK_FALSE(must(pv::vhost::receive_handover(doors.theirs.get())).socket);
  doors.ours.reset();
  CHECK_FALSE(pv::vhost::receive_handover(doors.theirs.get()));
}

TEST_CASE("more than a handover may hold is refused, and what is none as well", "[vhost]") {
  Doors doors;
  pv::vhost::Handover sent;
  sent.socket.reset(memfd_create("s", MFD_CLOEXEC));
  for (size_t i = 0; i <= pv::vhost::Handover::k_max_said; ++i)
    sent.said.push_back(said(13, "", 1));
  CHECK_FALSE(pv::vhost::send_handover(doors.ours.get(), sent));
  sent.said.clear();
  must(pv::vhost::send_handover(doors.ours.get(), sent));
  CHECK_FALSE(pv::vhost::receive_handover(doors.theirs.get()));
}

}  // namespace pv::test::vhost
