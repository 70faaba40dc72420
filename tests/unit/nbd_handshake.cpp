// SPDX-License-Identifier: MIT
// If this fails, a client that sends its bytes in other pieces gets other answers, or a hostile one
// gets further than the option phase allows.
#include <algorithm>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "front/nbd/handshake.hpp"
#include "front/nbd/protocol.hpp"
#include "nbd_bytes.hpp"

using namespace pv;
using namespace pv::nbd;
using namespace pv::test;

namespace {

Export exported() {
  Export e{"disk", "a disk", {}};
  e.geometry.size = 1 << 20;
  return e;
}

std::string hello(uint32_t flags = 3) {
  return be(flags, 4);
}
std::string go_to(const std::string& export_name, std::vector<uint16_t> infos = {}) {
  std::string data = name(export_name) + be(infos.size(), 2);
  for (const uint16_t info : infos) data += be(info, 2);
  return option(k_opt_go, data);
}

struct Outcome {
  std::string output;
  size_t used = 0;
  Handshake::State state{};
  bool structured = false, allocation = false;
  bool operator==(const Outcome&) const = default;
};

// Feeds `bytes` in pieces as a socket would deliver them, keeping what was not taken.
Outcome feed(const std::string& bytes, const std::function<size_t()>& piece) {
  const Export e = exported();
  Handshake handshake(e);
  std::string buffer;
  Outcome result;
  for (size_t at = 0; at < bytes.size();) {
    const size_t n = std::min(std::max<size_t>(piece(), 1), bytes.size() - at);
    buffer.append(bytes, at, n);
    at += n;
    const size_t used = handshake.feed(buffer);
    buffer.erase(0, used);
    result.used += used;
  }
  result.output = handshake.output();
  result.state = handshake.state();
  result.structured = handshake.structured();
  result.allocation = handshake.base_allocation();
  return result;
}
Outcome feed_whole(const std::string& bytes) {
  return feed(bytes, [&] { return bytes.size(); });
}

// The types of the option replies behind the greeting.
std::vector<uint32_t> replies(const std::string& output) {
  std::vector<uint32_t> types;
  for (size_t at = 18; at + 20 <= output.size();) {
    CHECK(get64(output.data() + at) == k_option_reply_magic);
    types.push_back(get32(output.data() + at + 12));
    at += 20 + get32(output.data() + at + 16);
    CHECK(at <= output.size());
  }
  return types;
}

std::string random_option(Rng& rng) {
  switch (rng.below(9)) {
    case 0:
      return option(k_opt_list, rng.below(4) == 0 ? "x" : "");
    case 1:
      return option(k_opt_structured_reply, "");
    case 2:
      return option(k_opt_info, name("disk") + be(1, 2) + be(rng.below(5), 2));
    case 3:
      return option(k_opt_set_meta_context, name("") + be(1, 4) + name("base:allocation"));
    case 4:
      return option(k_opt_list_meta_context, name("disk") + be(0, 4));
    case 5:
      return option(static_cast<uint32_t>(rng.below(20)), random_bytes(rng, rng.below(40)));
    case 6:
      return option(k_opt_go, name("nosuch") + be(0, 2));
    case 7:
      return go_to("disk", {3});
    default:
      return option(5, "");
  }
}

}  // namespace

TEST_CASE("bytes one by one, in random pieces and as a whole get the same answers", "[nbd]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  for (int round = 0; round < 400; ++round) {
    std::string bytes = hello(rng.below(16) == 0 ? static_cast<uint32_t>(rng.below(8)) : 3);
    for (uint64_t n = rng.below(8); n > 0; --n) bytes += random_option(rng);
    if (rng.below(4) == 0 && bytes.size() > 8)
      bytes[rng.below(bytes.size())] ^= static_cast<char>(1 << rng.below(8));
    const Outcome whole = feed_whole(bytes);
    CHECK(feed(bytes, [] { return 1; }) == whole);
    CHECK(feed(bytes, [&] { return rng.below(30); }) == whole);
    CHECK(whole.used <= bytes.size());
  }
}

TEST_CASE("random bytes never leave the option phase and never grow the answer without end",
          "[nbd]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  for (int round = 0; round < 300; ++round) {
    const Outcome result = feed_whole(hello() + random_bytes(rng, rng.below(500)));
    CHECK(result.state != Handshake::State::transmission);
    CHECK(result.output.size() < 2000);
  }
}

TEST_CASE("GO leads to transmission with the export's size, flags and block sizes", "[nbd]") {
  const Outcome result =
      feed_whole(hello() + go_to("disk", {k_info_block_size, k_info_name, k_info_description}));
  CHECK(result.state == Handshake::State::transmission);
  CHECK(replies(result.output) ==
        std::vector<uint32_t>{k_rep_info, k_rep_info, k_rep_info, k_rep_info, k_rep_ack});
  CHECK(get64(result.output.data() + 18 + 22) == 1 << 20);
  CHECK(feed_whole(hello() + go_to("")).state == Handshake::State::transmission);
}

TEST_CASE("an export that does not exist is refused and the client may try again", "[nbd]") {
  const Outcome result = feed_whole(hello() + go_to("nosuch") + go_to("disk"));
  CHECK(result.state == Handshake::State::transmission);
  CHECK(replies(result.output).front() == k_rep_err_unknown);
  CHECK(feed_whole(hello() + option(k_opt_export_name, "nosuch")).state ==
        Handshake::State::closed);
}

TEST_CASE("INFO answers and stays in the option phase, ABORT ends it", "[nbd]") {
  const Outcome info = feed_whole(hello() + option(k_opt_info, name("disk") + be(0, 2)));
  CHECK(info.state == Handshake::State::negotiating);
  CHECK(replies(info.output).back() == k_rep_ack);
  const Outcome abort = feed_whole(hello() + option(k_opt_abort, ""));
  CHECK(abort.state == Handshake::State::closed);
  CHECK(replies(abort.output) == std::vector<uint32_t>{k_rep_ack});
}

TEST_CASE("EXPORT_NAME answers with or without the 124 zeroes", "[nbd]") {
  CHECK(feed_whole(hello(3) + option(k_opt_export_name, "disk")).output.size() == 18 + 10);
  CHECK(feed_whole(hello(1) + option(k_opt_export_name, "disk")).output.size() == 18 + 10 + 124);
}

TEST_CASE("client flags that we do not know, or without fixed newstyle, end it", "[nbd]") {
  for (const uint32_t flags : {0U, 2U, 4U, 7U, 0x80000001U, 0xffffffffU})
    CHECK(feed_whole(hello(flags) + go_to("disk")).state == Handshake::State::closed);
  // Such a client may ask for an export, which has no answer that it would not understand.
  for (const uint32_t flags : {0U, 2U})
    CHECK(feed_whole(hello(flags) + option(k_opt_export_name, "disk")).state ==
          Handshake::State::transmission);
  for (const uint32_t flags : {1U, 3U})
    CHECK(feed_whole(hello(flags) + go_to("disk")).state == Handshake::State::transmission);
}

TEST_CASE("options that are unknown are refused, malformed ones too, and the phase goes on",
          "[nbd]") {
  const std::pair<std::string, uint32_t> cases[] = {
      {option(5, ""), k_rep_err_unsup},
      {option(0, ""), k_rep_err_unsup},
      {option(0xffffffff, "abc"), k_rep_err_unsup},
      {option(k_opt_list, "x"), k_rep_err_invalid},
      {option(k_opt_structured_reply, "x"), k_rep_err_invalid},
      {option(k_opt_go, ""), k_rep_err_invalid},
      {option(k_opt_go, be(0xffffffff, 4)), k_rep_err_invalid},
      {option(k_opt_go, name("disk")), k_rep_err_invalid},
      {option(k_opt_go, name("disk") + be(2, 2) + be(0, 2)), k_rep_err_invalid},
      {option(k_opt_go, name("disk") + be(0, 2) + "x"), k_rep_err_invalid},
      {option(k_opt_info, name(std::string(4097, 'x')) + be(0, 2)), k_rep_err_invalid},
      {option(k_opt_set_meta_context, name("") + be(0, 4)),
       k_rep_err_invalid},  // no structured replies
  };
  for (const auto& [bytes, wanted] : cases) {
    const Outcome result = feed_whole(hello() + bytes + option(k_opt_list, ""));
    CHECK(result.state == Handshake::State::negotiating);
    CHECK(replies(result.output) == std::vector<uint32_t>{wanted, k_rep_server, k_rep_ack});
  }
  CHECK(feed_whole(hello() + be(k_option_magic, 8) + be(3, 4) + be(70'000, 4)).state ==
        Handshake::State::closed);
  CHECK(feed_whole(hello() + be(1, 8) + be(3, 4) + be(0, 4)).state == Handshake::State::closed);
}

TEST_CASE("meta contexts: base:allocation is found by name, by its prefix and by asking for all",
          "[nbd]") {
  const std::string structured = option(k_opt_structured_reply, "");
  const auto ask = [&](uint32_t what, const std::vector<std::string>& queries) {
    std::string data = name("disk") + be(queries.size(), 4);
    for (const std::string& query : queries) data += name(query);
    return feed_whole(hello() + structured + option(what, data));
  };
  CHECK(ask(k_opt_set_meta_context, {"base:allocation"}).allocation);
  CHECK(ask(k_opt_set_meta_context, {"x:y", "base:allocation"}).allocation);
  CHECK_FALSE(ask(k_opt_set_meta_context, {"x:y"}).allocation);
  CHECK_FALSE(ask(k_opt_set_meta_context, {"base:"}).allocation);
  CHECK_FALSE(ask(k_opt_set_meta_context, {}).allocation);
  CHECK_FALSE(ask(k_opt_list_meta_context, {"base:allocation"}).allocation);
  for (const auto& queries :
       std::vector<std::vector<std::string>>{{}, {"base:"}, {"base:allocation"}})
    CHECK(replies(ask(k_opt_list_meta_context, queries).output) ==
          std::vector<uint32_t>{k_rep_ack, k_rep_meta_context, k_rep_ack});
  // A later choice replaces the earlier one.
  const std::string twice =
      option(k_opt_set_meta_context, name("") + be(1, 4) + name("base:allocation")) +
      option(k_opt_set_meta_context, name("") + be(0, 4));
  CHECK_FALSE(feed_whole(hello() + structured + twice).allocation);
  // ... also one that fails.
  const std::string chosen =
      option(k_opt_set_meta_context, name("") + be(1, 4) + name("base:allocation"));
  for (const std::string& failing :
       {name("nosuch") + be(1, 4) + name("base:allocation"), name("disk"),
        name("disk") + be(1, 4) + name("base:allocation") + "x"}) {
    const std::string again = option(k_opt_set_meta_context, failing);
    CHECK(feed_whole(hello() + structured + chosen).allocation);
    CHECK_FALSE(feed_whole(hello() + structured + chosen + again).allocation);
  }
}

// The number of a context means something only once it is chosen.
TEST_CASE("meta contexts have number 0 in a list, and another one when they are chosen", "[nbd]") {
  for (const uint32_t what : {k_opt_list_meta_context, k_opt_set_meta_context}) {
    const Outcome result =
        feed_whole(hello() + option(k_opt_structured_reply, "") +
                   option(what, name("disk") + be(1, 4) + name("base:allocation")));
    const uint32_t id = get32(result.output.data() + 18 + 20 + 20);
    CHECK((id == 0) == (what == k_opt_list_meta_context));
  }
}

TEST_CASE("DF is offered with structured replies, and not without", "[nbd]") {
  const auto offered = [](const std::string& before) {
    const std::string out = feed_whole(hello() + before + go_to("disk")).output;
    const size_t at = out.find(be(1 << 20, 8));
    return get16(out.data() + at + 8);
  };
  CHECK((offered("") & k_send_df) == 0);
  CHECK((offered(option(k_opt_structured_reply, "")) & k_send_df) != 0);
}

TEST_CASE("a read-only export and one that ignores discard say so", "[nbd]") {
  blk::Geometry geometry;
  geometry.size = 512;
  CHECK((transmission_flags(geometry, false) & k_read_only) == 0);
  CHECK((transmission_flags(geometry, false) & k_send_trim) != 0);
  geometry.read_only = true;
  geometry.discard = blk::DiscardBehaviour::ignored;
  CHECK((transmission_flags(geometry, false) & k_read_only) != 0);
  CHECK((transmission_flags(geometry, false) & k_send_trim) == 0);
}
