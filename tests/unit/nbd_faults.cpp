// SPDX-License-Identifier: MIT
// If this fails, a fault of the wire reaches the client at another byte than the rule says, or hits
// what it was not meant for: other connections, other answers, data that was written.
#include <algorithm>

#include "nbd_fault_rig.hpp"

using namespace pv;
using namespace pv::test;

TEST_CASE("an answer is cut after exactly so many bytes, and only that connection ends",
          "[nbd][wire]") {
  for (const bool in_file : {false, true})
    for (const bool structured : {false, true})
      for (const size_t length : {k_length, size_t{65'536}}) {
        Faulty wire(in_file);
        const std::string whole = wire.read_answer(structured, 4096, length);
        Fd other = wire.open_client(structured);
        for (const size_t bytes :
             {size_t{0}, size_t{1}, size_t{15}, size_t{16}, size_t{17}, size_t{28}, size_t{29},
              size_t{4096}, whole.size() - 1, whole.size(), whole.size() + 100}) {
          INFO(in_file << " " << structured << " " << length << " " << bytes);
          Fd fd = wire.open_client(structured);
          wire.add(cut_reply(bytes));
          const std::string got = wire.ask(fd, read_request(4096, length), whole.size());
          CHECK((got == whole.substr(0, std::min(bytes, whole.size()))));
          CHECK(wire.ended(fd));
        }
        const std::string fine = wire.ask(other, read_request(4096, length), whole.size());
        CHECK((fine == whole));
        CHECK_FALSE(wire.closed(other));
        wire.check_well();
        CHECK(wire.events().size() == 11);
        CHECK(wire.events()[0]["delivered"] == "DISCONNECTED");
        CHECK(wire.events()[0]["at"] == "reply");
      }
}

TEST_CASE("a request that is cut when it was read does nothing, one cut before its reply does",
          "[nbd][wire]") {
  for (const bool structured : {false, true}) {
    Faulty wire;
    const std::string fresh(k_length, 'n');
    for (const char* at : {"request", "before_reply"}) {
      INFO(at << " " << structured);
      Fd fd = wire.open_client(structured);
      wire.add(disconnect(at));
      CHECK(wire.say(fd, request(k_cmd_write, 3, 0, k_length, fresh)).empty());
      CHECK(wire.ended(fd));
      if (std::string(at) == "before_reply") wire.content.replace(0, k_length, fresh);
      wire.check_well();
      wire.add(disconnect(at));
      fd = wire.open_client(structured);
      CHECK(wire.say(fd, request(k_cmd_flush, 3, 0, 0)).empty());
      CHECK(wire.ended(fd));
    }
    CHECK(wire.events().size() == 4);
    CHECK(wire.counters.in_flight() == 0);
  }
}

TEST_CASE("what was answered before goes out before a cut, also to a client that reads late",
          "[nbd][wire]") {
  for (const bool structured : {false, true}) {
    Faulty wire;
    Fd fd = wire.open_client(structured);
    wire.add(cut_reply(5), {{"op", {"flush"}}});
    std::string asked, wanted;
    constexpr size_t k_reads = 30, k_large = 262'144;
    for (size_t i = 0; i < k_reads; ++i) {
      asked += read_request(i * 4096, k_large);
      wanted += wire.read_answer(structured, i * 4096, k_large);
    }
    asked += request(k_cmd_flush, k_cookie, 0, 0) + read_request();
    REQUIRE(send(fd.get(), asked.data(), asked.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(asked.size()));
    wire.spin(10);
    wanted += Faulty::simple(k_cookie).substr(0, 5);
    CHECK((wire.ask(fd, "", wanted.size()) == wanted));
    CHECK(wire.ended(fd));
  }
}

TEST_CASE("requests in flight on a connection that is cut are finished and forgotten",
          "[nbd][wire]") {
  Faulty wire;
  wire.add(disconnect("request"), {{"op", {"flush"}}});
  Fd fd = wire.open_client(true);
  const std::string fresh(k_length, 'n');
  wire.gate->closed = true;
  wire.say(fd, read_request(65'536) + request(k_cmd_write, 3, 0, k_length, fresh));
  REQUIRE(wire.gate->held.size() == 2);
  CHECK(wire.say(fd, request(k_cmd_flush, 4, 0, 0)).empty());
  CHECK(wire.ended(fd));
  CHECK(wire.server->connections() == 1);
  wire.gate->open();
  wire.spin();
  CHECK(wire.server->connections() == 0);
  CHECK(wire.counters.in_flight() == 0);
  wire.content.replace(0, k_length, fresh);
  wire.check_well();
}

TEST_CASE("a rule that comes while a read is in flight acts on what was lent", "[nbd][wire]") {
  for (const bool in_file : {false, true})
    for (const bool structured : {false, true})
      for (const size_t length : {k_length, size_t{65'536}}) {
        Faulty wire(in_file);
        const std::string whole = wire.read_answer(structured, 0, length);
        const auto late = [&](const json& what, const json& match = json::object()) {
          Fd fd = wire.open_client(structured);
          wire.gate->closed = true;
          wire.say(fd, read_request(0, length));
          REQUIRE(wire.gate->held.size() == 1);
          wire.add(what, match);
          wire.gate->open();
          return wire.ask(fd, "", 2 * whole.size());
        };
        INFO(in_file << " " << structured << " " << length);
        CHECK((late(cut_reply(100)) == whole.substr(0, 100)));
        CHECK((late(violate("twice")) == whole + whole));
        CHECK(wire.events()[0]["phase"] == "after_io");
      }
}

TEST_CASE("a connection is cut at each point of the handshake", "[nbd][wire]") {
  Faulty wire;
  Fd fd = wire.connect();
  const std::string greeting = wire.take(fd);
  REQUIRE(greeting.size() == 18);
  const std::string options = wire.say(fd, go(true));
  const auto cut_greeting = [](uint64_t bytes) {
    return json{{"kind", "disconnect"}, {"at", "greeting"}, {"bytes", bytes}};
  };
  for (const size_t bytes : {0, 1, 17, 18, 100}) {
    wire.add(cut_greeting(bytes));
    Fd cut = wire.connect();
    CHECK(wire.take(cut) == greeting.substr(0, bytes));
    CHECK(wire.ended(cut));
  }
  wire.add(disconnect("options"));
  Fd early = wire.connect();
  CHECK(wire.say(early, be(3, 4)) == greeting);
  CHECK_FALSE(wire.closed(early));
  CHECK(wire.say(early, go(true).substr(4)).empty());
  CHECK(wire.ended(early));

  wire.add(disconnect("export"));
  Fd late = wire.connect();
  CHECK(wire.say(late, go(true)) == greeting + options.substr(0, options.size() - 20));
  CHECK(wire.ended(late));
  wire.add(disconnect("export"));
  Fd old = wire.connect();
  CHECK(wire.say(old, be(3, 4) + be(k_option_magic, 8) + be(k_opt_export_name, 4) + be(0, 4)) ==
        greeting);
  CHECK(wire.ended(old));

  CHECK_FALSE(wire.closed(fd));  // it was there before the rules
  wire.check_well();
  const json events = wire.events();
  REQUIRE(events.size() == 8);
  for (const json& event : events) {
    CHECK(event["op"] == "connect");
    CHECK(event["delivered"] == "DISCONNECTED");
  }
  CHECK(events[1]["at"] == "greeting");
  CHECK(events[1]["bytes"] == 1);
  CHECK(events[6]["at"] == "export");
}

TEST_CASE("rules about connections count connections, and no request", "[nbd][wire]") {
  Faulty wire;
  wire.add(disconnect("greeting"), json::object(), {{"after", 1}, {"every", 2}});
  for (int i = 0; i < 6; ++i) {
    Fd fd = wire.connect();
    const bool cut = i == 2 || i == 4;
    INFO(i);
    REQUIRE(wire.closed(fd) == cut);
    if (cut) continue;
    wire.say(fd, go(false));
    CHECK((wire.say(fd, read_request()) == wire.read_answer(false)));
  }
  const json rule = (*wire.disk->control({{"op", "fault.list"}}))["rules"][0];
  CHECK(rule["matched"] == 6);
  CHECK(rule["fired"] == 2);

  Faulty chosen;
  chosen.add(disconnect("options"), {{"connection", {3}}, {"front", "nbd"}}, json::object());
  for (int number = 2; number < 5; ++number) {  // the first has written the content
    Fd fd = chosen.open_client(false);
    CHECK(chosen.closed(fd) == (number == 3));
  }
}

TEST_CASE("rules of the wire that could never fire are refused", "[nbd][wire]") {
  Faulty wire;
  const auto code = [&](const char* rule) {
    INFO(rule);
    const auto added = wire.disk->control({{"op", "fault.add"}, {"rule", *parse_json(rule)}});
    REQUIRE_FALSE(added);
    return added.error().code;
  };
  for (const char* rule :
       {R"({"match":{"op":["read"]},"do":{"kind":"disconnect","at":"greeting"}})",
        R"({"match":{"ranges":[[0,512]]},"do":{"kind":"disconnect","at":"options"}})",
        R"({"match":{"min_bytes":512},"do":{"kind":"disconnect","at":"export"}})",
        R"({"heal":"rewrite","do":{"kind":"disconnect","at":"export"}})",
        R"({"do":{"kind":"disconnect","at":"nowhere"}})",
        R"({"do":{"kind":"disconnect","at":"request","bytes":3}})",
        R"({"do":{"kind":"disconnect","at":"reply","bytes":-3}})",
        R"({"do":{"kind":"violate","what":"nothing"}})",
        R"({"do":{"kind":"violate","what":"magic","bytes":3}})",
        R"({"do":{"kind":"violate","what":"garbage","bytes":0}})",
        R"({"match":{"op":["write"]},"do":{"kind":"violate","what":"missing_data"}})",
        R"({"match":{"op":["flush"]},"do":{"kind":"violate","what":"chunk_length"}})"})
    CHECK(code(rule) == Code::bad_rule);
  CHECK(code(R"({"match":{"front":"host"},"do":{"kind":"disconnect"}})") == Code::unsupported);
  CHECK(code(R"({"match":{"front":"host"},"do":{"kind":"violate"}})") == Code::unsupported);
  CHECK(code(R"({"match":{"front":"host"},"do":{"kind":"disconnect","at":"greeting"}})") ==
        Code::unsupported);
}

TEST_CASE("what a rule of the wire shows can be fed back", "[nbd][wire]") {
  Faulty wire;
  for (const json& what : {disconnect("export"), cut_reply(3), violate("garbage")}) wire.add(what);
  const json rules = (*wire.disk->control({{"op", "fault.list"}}))["rules"];
  REQUIRE(wire.disk->control({{"op", "fault.add"}, {"rules", rules}}));
  CHECK((*wire.disk->control({{"op", "fault.list"}}))["rules"] == rules);
}

TEST_CASE("the host's requests pass rules of the wire", "[nbd][wire]") {
  Rig rig;
  REQUIRE(rig.call({{"op", "fault.add"}, {"rule", {{"id", "a"}, {"do", disconnect("reply")}}}}));
  REQUIRE(rig.call({{"op", "fault.add"}, {"rule", {{"id", "b"}, {"do", violate("magic")}}}}));
  Io io(Op::read, 0, 4096);
  rig.submit(io);
  CHECK(io.error == 0);
  CHECK(rig.events().empty());
}
