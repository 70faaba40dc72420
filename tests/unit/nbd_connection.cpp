// SPDX-License-Identifier: MIT
// If this fails, a client that is slow, hostile or gone takes the server, other clients or memory
// with it, or gets answers that depend on how its bytes were cut.
#include <poll.h>

#include "../catch.hpp"
#include "base/text.hpp"
#include "nbd_rig.hpp"

using namespace pv;
using namespace pv::nbd;
using namespace pv::test;

namespace {

std::string random_requests(Rng& rng) {
  std::string out;
  for (int i = 0; i < 30; ++i) {
    const uint64_t offset = rng.below(2060) * 512;
    const uint32_t length = static_cast<uint32_t>(rng.below(9) * 512 + (rng.below(8) == 0 ? 1 : 0));
    const uint64_t cookie = rng.next();
    switch (rng.below(7)) {
      case 0:
      case 1:
        out += request(k_cmd_read, cookie, offset, length);
        break;
      case 2:
      case 3:
        out += request(k_cmd_write, cookie, offset, length, random_bytes(rng, length));
        break;
      case 4:
        out += request(k_cmd_trim, cookie, offset, length);
        break;
      case 5:
        out += request(static_cast<uint16_t>(9 + rng.below(90)), cookie, offset, length);
        break;
      default:
        out +=
            request(k_cmd_flush, cookie, 0, 0, "", static_cast<uint16_t>(rng.below(2) ? 0 : 0x80));
    }
  }
  return out;
}

}  // namespace

TEST_CASE("requests byte by byte, in random pieces and as a whole get the same answers", "[nbd]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  for (int round = 0; round < 12; ++round) {
    Rng rng(mix(seed, static_cast<uint64_t>(round)));
    const bool structured = rng.below(2) == 0;
    const std::string bytes = random_requests(rng);
    const auto answers = [&](const std::function<size_t()>& piece) {
      Wire wire;
      Fd fd = wire.connect();
      wire.say(fd, go(structured));
      return wire.say(fd, bytes, piece);
    };
    const std::string whole = answers([&] { return bytes.size(); });
    CHECK(whole.size() >= 30 * 16);
    CHECK((answers([&] { return rng.below(700); }) == whole));
    if (round < 2) CHECK((answers([] { return 1; }) == whole));
  }
}

TEST_CASE("a refused write is answered only after its data, and the next request is found",
          "[nbd]") {
  for (const bool structured : {true, false}) {
    Wire wire;
    Fd fd = wire.connect();
    wire.say(fd, go(structured));
    const std::string data(4096, 'x');
    const std::string head = request(k_cmd_write, 7, 0, 4096, "", 0x80);  // a flag that is none
    CHECK(wire.say(fd, head + data.substr(0, 4095)).empty());
    const std::string answer = wire.say(fd, data.substr(4095));
    REQUIRE(answer.size() == 16);
    CHECK(get32(answer.data() + 4) == k_einval);
    CHECK(get64(answer.data() + 8) == 7);
    CHECK(wire.say(fd, request(k_cmd_flush, 8, 0, 0)) ==
          be(k_simple_reply_magic, 4) + be(0, 4) + be(8, 8));
  }
}

TEST_CASE("a client that is out of step or hostile is cut, the next one is served", "[nbd]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  Wire wire;
  for (int round = 0; round < 60; ++round) {
    Fd fd = wire.connect();
    wire.say(fd, go(rng.below(2) == 0));
    wire.say(fd, request(k_cmd_read, 1, 0, 512) + std::string(1, 'x') +
                     random_bytes(rng, 27 + rng.below(500)));
    CHECK(wire.closed(fd));
  }
  for (int round = 0; round < 60; ++round) {
    Fd fd = wire.connect();
    wire.say(fd, random_bytes(rng, rng.below(400)));
    fd.reset();
    wire.spin();
  }
  Fd fd = wire.connect();
  wire.say(fd, go(false));
  CHECK(wire.say(fd, request(k_cmd_read, 1, 0, 512)).size() == 16 + 512);
  CHECK(wire.server->connections() == 1);
  CHECK(wire.counters.in_flight() == 0);
}

TEST_CASE("a client that goes in the middle of anything leaves nothing in flight", "[nbd]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  Wire wire;
  const auto slow =
      parse_json(R"({"op":"fault.add","rule":{"do":{"kind":"delay","delay_ms":0.2}}})");
  REQUIRE(wire.disk->control(*slow));
  const std::string talk = go(true) + random_requests(rng) +
                           request(k_cmd_write, 1, 0, 65536, std::string(65536, 'y')) +
                           request(k_cmd_write, 2, 0, 4096, std::string(4096, 'z'), 0x80);
  for (int round = 0; round < 150; ++round) {
    Fd fd = wire.connect();
    wire.say(fd, talk.substr(0, rng.below(talk.size())));
    fd.reset();
    wire.spin();
  }
  const Deadline deadline = Deadline::in_ms(20'000);
  while ((wire.server->connections() != 0 || wire.counters.in_flight() != 0) && !deadline.passed())
    REQUIRE(wire.loop->run_once(10));
  CHECK(wire.server->connections() == 0);
  CHECK(wire.counters.in_flight() == 0);
}

TEST_CASE("a client that reads nothing stops being read, and gets everything once it reads",
          "[nbd]") {
  Wire wire;
  Fd fd = wire.connect();
  wire.say(fd, go(false));
  constexpr uint64_t k_requests = 400;
  const std::string one = request(k_cmd_read, 5, 0, 1 << 20);
  std::string all;
  for (uint64_t i = 0; i < k_requests; ++i) all += one;
  REQUIRE(send(fd.get(), all.data(), all.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(all.size()));
  wire.spin(20);
  CHECK(wire.counters.to_json()["read"]["completed"] < 100);  // 64 MiB of backlog, not 400
  uint64_t got = 0;
  std::vector<char> chunk(1 << 20);
  const Deadline deadline = Deadline::in_ms(60'000);
  while (got < k_requests * ((1 << 20) + 16) && !deadline.passed()) {
    const ssize_t n = recv(fd.get(), chunk.data(), chunk.size(), 0);
    if (n > 0) got += static_cast<uint64_t>(n);
    wire.spin(1);
  }
  CHECK(got == k_requests * ((1 << 20) + 16));
  CHECK(wire.counters.in_flight() == 0);
}

TEST_CASE("DISC is answered by the end of the connection, after what was in flight", "[nbd]") {
  Wire wire;
  Fd fd = wire.connect();
  wire.say(fd, go(false));
  const std::string answer =
      wire.say(fd, request(k_cmd_read, 1, 0, 512) + request(k_cmd_disc, 2, 0, 0) +
                       request(k_cmd_read, 3, 0, 512));
  CHECK(answer.size() == 16 + 512);
  CHECK(wire.closed(fd));
  wire.spin();
  CHECK(wire.server->connections() == 0);
}

TEST_CASE("a server that is told to stop answers ESHUTDOWN and lets nobody in", "[nbd]") {
  Wire wire;
  Fd fd = wire.connect();
  wire.say(fd, go(false));
  wire.server->stop();
  const std::string answer = wire.say(
      fd, request(k_cmd_read, 1, 0, 512) + request(k_cmd_write, 2, 0, 512, std::string(512, 'x')));
  REQUIRE(answer.size() == 32);
  CHECK(get32(answer.data() + 4) == k_eshutdown);
  CHECK(get32(answer.data() + 20) == k_eshutdown);
}

TEST_CASE("pipelined option and transmission bytes are answered in order", "[nbd]") {
  Wire wire;
  Fd fd = wire.connect();
  std::string all = go(true);
  for (int i = 0; i < 4; ++i) all += request(k_cmd_read, 9, 0, 1 << 20);
  const std::string answer = wire.say(fd, all);
  REQUIRE(answer.size() > 18);
  CHECK(get64(answer.data()) == k_magic);
  CHECK(get64(answer.data() + 18) == k_option_reply_magic);
}

TEST_CASE("more clients than the bound are turned away, and let in when others have gone",
          "[nbd]") {
  Wire wire;
  std::vector<Fd> many;
  for (int i = 0; i < 256; ++i) {
    many.push_back(wire.connect());
    if (wire.closed(many.back())) FAIL("client " << i << " was turned away");
  }
  Fd extra = wire.connect();
  CHECK(wire.take(extra).empty());
  CHECK(wire.closed(extra));
  many.pop_back();
  wire.spin();
  Fd again = wire.connect();
  CHECK(wire.take(again).size() == 18);
}
