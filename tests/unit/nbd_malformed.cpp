// SPDX-License-Identifier: MIT
// If this fails, some field of an option or of a request, when it is wrong, takes the connection,
// the server or another request with it, or is let through.

#include "../catch.hpp"
#include "nbd_rig.hpp"

using namespace pv;
using namespace pv::nbd;
using namespace pv::test;

namespace {

constexpr uint32_t k_malformed_size = 1 << 20;

// The error in the only answer, or -1 when there is another number of answers.
int64_t status(const std::string& answer, uint64_t cookie) {
  if (answer.size() == 16 && get32(answer.data()) == k_simple_reply_magic)
    return get64(answer.data() + 8) == cookie ? get32(answer.data() + 4) : -1;
  if (answer.size() == 26 && get32(answer.data()) == k_structured_reply_magic)
    return get64(answer.data() + 8) == cookie ? get32(answer.data() + 20) : -1;
  return -1;
}

bool alive(Wire& wire, Fd& fd) {
  return wire.say(fd, request(k_cmd_flush, 99, 0, 0)) ==
         be(k_simple_reply_magic, 4) + be(0, 4) + be(99, 8);
}

}  // namespace

TEST_CASE("a request with one field wrong is refused, and the connection goes on", "[nbd]") {
  struct Row {
    const char* what;
    uint16_t command;
    uint16_t flags;
    uint64_t offset;
    uint32_t length;
    uint32_t wanted;
  };
  const Row rows[] = {
      {"no command", 8, 0, 0, 512, k_einval},
      {"no command", 0xffff, 0, 0, 512, k_einval},
      {"length 0", k_cmd_read, 0, 0, 0, k_einval},
      {"length 0", k_cmd_write, 0, 0, 0, k_einval},
      {"length 0", k_cmd_trim, 0, 0, 0, k_einval},
      {"length 0", k_cmd_write_zeroes, 0, 0, 0, k_einval},
      {"length 0", k_cmd_cache, 0, 0, 0, k_einval},
      {"length 0", k_cmd_block_status, 0, 0, 0, k_einval},
      {"over the limit", k_cmd_read, 0, 0, k_max_request + 512, k_einval},
      {"huge", k_cmd_read, 0, 0, 0xffffffff, k_einval},
      {"huge", k_cmd_trim, 0, 0, 0xfffffe00, k_einval},
      {"huge", k_cmd_write_zeroes, 0, 0, 0xfffffe00, k_enospc},
      {"ragged length", k_cmd_read, 0, 0, 511, k_einval},
      {"ragged length", k_cmd_trim, 0, 0, 513, k_einval},
      {"ragged offset", k_cmd_read, 0, 1, 512, k_einval},
      {"ragged offset", k_cmd_write_zeroes, 0, 511, 512, k_einval},
      {"past the end", k_cmd_read, 0, k_malformed_size, 512, k_einval},
      {"past the end", k_cmd_write_zeroes, 0, k_malformed_size - 512, 1024, k_enospc},
      {"wraps round", k_cmd_read, 0, UINT64_MAX - 511, 512, k_einval},
      {"wraps round", k_cmd_trim, 0, UINT64_MAX - 511, 1024, k_einval},
      {"shifted round", k_cmd_read, 0, 1ULL << 55, 512, k_einval},
      {"no context was asked for", k_cmd_block_status, 0, 0, 512, k_einval},
      {"an address without meaning", k_cmd_flush, 0, UINT64_MAX, 7, 0},
  };
  for (const bool structured : {false, true}) {
    Wire wire;
    Fd fd = wire.connect();
    wire.say(fd, go(structured));
    for (const Row& row : rows) {
      INFO(row.what << ", command " << row.command << (structured ? ", structured" : ""));
      CHECK(status(wire.say(fd, request(row.command, 5, row.offset, row.length, "", row.flags)),
                   5) == row.wanted);
      CHECK(alive(wire, fd));
    }
    CHECK(wire.counters.in_flight() == 0);
  }
}

TEST_CASE("every flag that a command does not have is refused", "[nbd]") {
  Wire wire;
  Fd fd = wire.connect();
  wire.say(fd, go(false));
  const std::pair<uint16_t, uint16_t> allowed[] = {
      {k_cmd_read, k_cmd_flag_fua},  {k_cmd_write, k_cmd_flag_fua},
      {k_cmd_flush, k_cmd_flag_fua}, {k_cmd_trim, k_cmd_flag_fua},
      {k_cmd_cache, k_cmd_flag_fua}, {k_cmd_write_zeroes, k_cmd_flag_fua | k_cmd_flag_no_hole},
  };
  for (const auto& [command, flags] : allowed)
    for (unsigned bit = 0; bit < 16; ++bit) {
      const auto flag = static_cast<uint16_t>(1U << bit);
      const bool good = (flags & flag) != 0;
      INFO("command " << command << ", flag " << flag);
      const std::string data(command == k_cmd_write ? 512 : 0, 'x');
      const std::string answer =
          wire.say(fd, request(command, 6, 0, command == k_cmd_flush ? 0 : 512, data, flag));
      if (good && command == k_cmd_read)
        CHECK(answer.size() == 16 + 512);
      else
        CHECK(status(answer, 6) == (good ? 0U : uint32_t{k_einval}));
    }
  CHECK(alive(wire, fd));
}

TEST_CASE("what was not offered is refused: FUA, trim, and DF without structured replies",
          "[nbd]") {
  blk::Geometry poor;
  poor.fua = false;
  poor.discard = blk::DiscardBehaviour::ignored;
  for (const bool rich : {false, true}) {
    Wire wire(rich ? blk::Geometry{} : poor);
    Fd fd = wire.connect();
    wire.say(fd, go(rich));
    const std::string data(512, 'x');
    const uint32_t wanted = rich ? 0 : uint32_t{k_einval};
    CHECK(status(wire.say(fd, request(k_cmd_write, 1, 0, 512, data, k_cmd_flag_fua)), 1) == wanted);
    CHECK(status(wire.say(fd, request(k_cmd_trim, 2, 0, 512)), 2) == wanted);
    const std::string read = wire.say(fd, request(k_cmd_read, 3, 0, 512, "", k_cmd_flag_df));
    CHECK((read.size() > 512) == rich);
    CHECK(alive(wire, fd));
  }
}

TEST_CASE("a wrong bit in the magic of a request ends the connection", "[nbd]") {
  Wire wire;
  for (unsigned bit = 0; bit < 32; ++bit) {
    Fd fd = wire.connect();
    wire.say(fd, go(false));
    std::string bytes = request(k_cmd_read, 1, 0, 512);
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
    CHECK(wire.say(fd, bytes).empty());
    CHECK(wire.closed(fd));
  }
}

TEST_CASE("requests that share a handle are each answered with it", "[nbd]") {
  Wire wire;
  Fd fd = wire.connect();
  wire.say(fd, go(false));
  std::string all;
  for (int i = 0; i < 5; ++i) all += request(k_cmd_read, 7, 0, 512);
  const std::string answer = wire.say(fd, all);
  REQUIRE(answer.size() == 5 * (16 + 512));
  for (size_t i = 0; i < 5; ++i) CHECK(get64(answer.data() + i * 528 + 8) == 7);
}

TEST_CASE("a talk that is cut at any byte leaves nothing behind", "[nbd]") {
  const std::string talk =
      be(3, 4) + option(k_opt_structured_reply, "") +
      option(k_opt_set_meta_context, name("disk") + be(1, 4) + name("base:allocation")) +
      option(k_opt_info, name("disk") + be(2, 2) + be(0, 2) + be(3, 2)) +
      option(k_opt_go, name("disk@host") + be(0, 2)) + request(k_cmd_read, 1, 0, 512) +
      request(k_cmd_write, 2, 512, 512, std::string(512, 'w'), k_cmd_flag_fua) +
      request(k_cmd_write, 3, 1, 512, std::string(512, 'r')) +
      request(k_cmd_block_status, 4, 0, 4096) + request(k_cmd_flush, 5, 0, 0);
  Wire wire;
  for (size_t cut = 0; cut <= talk.size(); ++cut) {
    Fd fd = wire.connect();
    wire.say(fd, talk.substr(0, cut));
    CHECK_FALSE(wire.closed(fd));  // a client that pauses is no client that errs
    fd.reset();
    wire.spin();
  }
  CHECK(wire.server->connections() == 0);
  CHECK(wire.counters.in_flight() == 0);
  // A write announces more than there will ever be.
  Fd fd = wire.connect();
  wire.say(fd, go(false) + request(k_cmd_write, 1, 0, 0xfffffe00, std::string(100'000, 'x')));
  fd.reset();
  wire.spin(20);
  CHECK(wire.counters.in_flight() == 0);
}

TEST_CASE("an option with one field wrong is refused or ends the connection", "[nbd]") {
  const auto end_of = [](const std::string& bytes) {
    const Export exported{"disk", "a disk", {}};
    Handshake handshake(exported);
    handshake.feed(be(3, 4) + bytes);
    return handshake.state();
  };
  for (unsigned bit = 0; bit < 64; ++bit) {
    std::string bytes = option(k_opt_list, "");
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
    CHECK(end_of(bytes) == Handshake::State::closed);
  }
  const std::string head = be(k_option_magic, 8) + be(k_opt_go, 4);
  CHECK(end_of(head + be(0xffffffff, 4)) == Handshake::State::closed);
  CHECK(end_of(head + be(k_max_option + 1, 4)) == Handshake::State::closed);
  CHECK(end_of(head + be(k_max_option, 4)) == Handshake::State::negotiating);  // not complete yet
  for (const uint32_t length : {5U, 0x7fffffffU, 0xffffffffU})
    CHECK(end_of(option(k_opt_go, be(length, 4) + "disk" + be(0, 2))) ==
          Handshake::State::negotiating);
  CHECK(end_of(option(k_opt_go, name(std::string(k_max_name, 'x')) + be(0, 2))) ==
        Handshake::State::negotiating);
  CHECK(end_of(option(k_opt_export_name, std::string(k_max_name + 1, 'x'))) ==
        Handshake::State::closed);
  CHECK(end_of(option(k_opt_go, name("disk") + be(0xffff, 2))) == Handshake::State::negotiating);
}

TEST_CASE("the part of an export's name behind an @ says which host asks", "[nbd]") {
  const auto host_of = [](const std::string& asked) -> std::string {
    const Export exported{"disk", "a disk", {}};
    Handshake handshake(exported);
    handshake.feed(be(3, 4) + option(k_opt_go, name(asked) + be(0, 2)));
    return handshake.state() == Handshake::State::transmission ? "[" + handshake.host() + "]"
                                                               : "refused";
  };
  CHECK(host_of("") == "[]");
  CHECK(host_of("disk") == "[]");
  CHECK(host_of("@a") == "[a]");
  CHECK(host_of("disk@node-1.x") == "[node-1.x]");
  CHECK(host_of("disk@" + std::string(64, 'h')) == "[" + std::string(64, 'h') + "]");
  for (const std::string& bad :
       {std::string("@"), std::string("disk@"), std::string("other@a"), std::string("@a@b"),
        std::string("@a/b"), std::string("@-a"), std::string("@a\0b", 4), std::string("@a\n"),
        "disk@" + std::string(65, 'h')})
    CHECK(host_of(bad) == "refused");
}
