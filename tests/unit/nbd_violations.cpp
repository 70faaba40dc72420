// SPDX-License-Identifier: MIT
// If this fails, an answer that should break the protocol in one way breaks it in another, or not
// at all; or a read that fails brings bytes that are not good.

#include <cerrno>

#include "../conform/libnbd.hpp"
#include "nbd_fault_rig.hpp"

using namespace pv;
using namespace pv::test;

namespace {

constexpr uint16_t k_alien = 77;

std::string tail(const std::string& text, size_t from) {
  return text.size() < from ? "" : text.substr(from);
}

std::string zero_chunk() {
  return be(k_structured_reply_magic, 4) + be(1, 2) + be(k_alien, 2) + be(k_cookie, 8) + be(0, 4);
}

struct Row {
  const char* what;
  std::function<void(const Faulty&, bool structured, const std::string& got)> check;
};

const Row k_cases[] = {
    {"magic",
     [](const Faulty& wire, bool structured, const std::string& got) {
       const std::string right = wire.read_answer(structured);
       const uint32_t magic = get32(got.data());
       CHECK(magic != k_simple_reply_magic);
       CHECK(magic != k_structured_reply_magic);
       CHECK((tail(got, 4) == tail(right, 4)));
     }},
    {"cookie",
     [](const Faulty& wire, bool structured, const std::string& got) {
       const std::string right = wire.read_answer(structured);
       CHECK((got.substr(0, 8) == right.substr(0, 8)));
       CHECK(get64(got.data() + 8) != k_cookie);
       CHECK((tail(got, 16) == tail(right, 16)));
     }},
    {"error_code",
     [](const Faulty&, bool structured, const std::string& got) {
       const std::string error = be(1000, 4) + be(0, 2);
       CHECK((got == (structured ? Faulty::chunk(1, k_reply_error, error)
                                 : Faulty::simple(k_cookie, 1000))));
     }},
    {"chunk_type",
     [](const Faulty& wire, bool, const std::string& got) {
       CHECK((got == Faulty::chunk(1, k_alien, be(0, 8) + wire.content.substr(0, k_length))));
     }},
    {"chunk_length",
     [](const Faulty& wire, bool, const std::string& got) {
       const std::string right = wire.read_answer(true);
       REQUIRE(got.size() == right.size() + 512);
       CHECK((got.substr(0, 16) == right.substr(0, 16)));
       CHECK(get32(got.data() + 16) == k_length + 8 + 512);
       CHECK((got.substr(20, k_length + 8) == tail(right, 20)));
     }},
    {"missing_data",
     [](const Faulty& wire, bool, const std::string& got) {
       CHECK((got == wire.read_answer(true, 0, k_length / 2)));
     }},
    {"twice",
     [](const Faulty& wire, bool structured, const std::string& got) {
       CHECK((got == wire.read_answer(structured) + wire.read_answer(structured)));
     }},
    {"garbage",
     [](const Faulty& wire, bool structured, const std::string& got) {
       const std::string right = wire.read_answer(structured);
       REQUIRE(got.size() == right.size() + 16);
       CHECK(get32(got.data()) != get32(right.data()));
       CHECK((tail(got, 16) == right));
     }},
};

bool needs_chunks(const std::string& what) {
  return what.rfind("chunk_", 0) == 0 || what == "missing_data";
}

}  // namespace

TEST_CASE("an answer breaks exactly the rule that it should, and the next one none",
          "[nbd][wire]") {
  for (const bool in_file : {false, true})
    for (const Row& row : k_cases)
      for (const bool structured : {false, true}) {
        INFO(row.what << " " << structured << " " << in_file);
        Faulty wire(in_file);
        Fd fd = wire.open_client(structured);
        wire.add(violate(row.what));
        const std::string right = wire.read_answer(structured);
        const std::string got = wire.ask(fd, read_request(), 16);
        const bool falls_back = needs_chunks(row.what) && !structured;
        (falls_back ? k_cases[0] : row).check(wire, structured, got);
        CHECK((wire.ask(fd, read_request(), right.size()) == right));
        const json event = wire.events()[0];
        CHECK(event["delivered"] == "VIOLATION");
        CHECK(event["what"] == (falls_back ? "magic" : row.what));
        CHECK(event.value("instead_of", "") == (falls_back ? row.what : ""));
      }
}

TEST_CASE("answers without data break the protocol too, and what was asked for is done",
          "[nbd][wire]") {
  const std::string right = Faulty::simple(k_cookie);
  for (const char* what : {"magic", "cookie", "error_code", "chunk_type", "twice", "garbage"}) {
    INFO(what);
    Faulty wire;
    Fd fd = wire.open_client(true);
    wire.add(violate(what));
    const std::string fresh(k_length, 'n'), name = what;
    const std::string got = wire.say(fd, request(k_cmd_write, k_cookie, 0, k_length, fresh));
    if (name == "error_code") CHECK((got == Faulty::simple(k_cookie, 1000)));
    if (name == "chunk_type") CHECK((got == zero_chunk()));
    if (name == "twice") CHECK((got == right + right));
    if (name == "garbage") CHECK((tail(got, 16) == right));
    if (name == "magic") CHECK((tail(got, 4) == tail(right, 4)));
    if (name == "cookie") CHECK((got.substr(0, 8) == right.substr(0, 8)));
    CHECK((got != right));
    wire.content.replace(0, k_length, fresh);
    wire.check_well();
  }
}

TEST_CASE("the same rule makes the same garbage", "[nbd][wire]") {
  std::string first;
  for (int round = 0; round < 2; ++round) {
    Faulty wire;
    wire.add({{"kind", "violate"}, {"what", "garbage"}, {"bytes", 100}});
    Fd fd = wire.open_client(false);
    const std::string got = wire.ask(fd, read_request(), k_length);
    CHECK(got.size() == 100 + 16 + k_length);
    if (round == 0) first = got;
    CHECK((got == first));
  }
}

TEST_CASE("a request that fails below is answered with its error, and the journal corrects",
          "[nbd][wire]") {
  for (const Row& row : k_cases) {
    Faulty wire;
    wire.failing->error = ENOSPC;
    Fd fd = wire.open_client(true);
    wire.add(violate(row.what));
    CHECK((wire.say(fd, read_request()) ==
           Faulty::chunk(1, k_reply_error, be(k_enospc, 4) + be(0, 2))));
    REQUIRE(wire.events().size() == 2);
    CHECK(wire.events()[1]["corrects"] == 1);
    CHECK(wire.events()[1]["delivered"] == "ENOSPC");
  }
  Faulty wire;
  wire.failing->error = ENOSPC;
  Fd fd = wire.open_client(false);
  wire.add(cut_reply(9));
  CHECK((wire.say(fd, read_request()) == Faulty::simple(k_cookie, k_enospc).substr(0, 9)));
  CHECK(wire.ended(fd));
  CHECK(wire.events().size() == 1);
}

TEST_CASE("a failed read brings what is in front of its first bad byte", "[nbd][wire]") {
  const auto error_at = [](uint64_t offset) {
    return Faulty::chunk(1, k_reply_error_offset, be(k_eio, 4) + be(0, 2) + be(offset, 8));
  };
  const std::string error = Faulty::chunk(1, k_reply_error, be(k_eio, 4) + be(0, 2));
  for (const bool in_file : {false, true})
    for (const size_t length : {k_length, size_t{65'536}}) {
      Faulty wire(in_file);
      wire.add({{"kind", "medium"}}, {{"ranges", {{8192 + 1024, 512}}}}, json::object());
      Fd fd = wire.open_client(true), old = wire.open_client(false);
      const std::string good =
          Faulty::chunk(0, k_reply_offset_data, be(8192, 8) + wire.content.substr(8192, 1024));
      INFO(in_file << " " << length);
      CHECK((wire.ask(fd, read_request(8192, length), 100) == good + error_at(8192 + 1024)));
      CHECK((wire.ask(fd, read_request(8192 + 1024, length), 26) == error));  // none is good
      CHECK(wire.ask(old, read_request(8192, length), 16) == Faulty::simple(k_cookie, k_eio));
      const std::string right = wire.read_answer(true, 65'536, length);
      CHECK((wire.ask(fd, read_request(65'536, length), right.size()) == right));

      // Set while the read was in flight, and its data had been lent.
      wire.gate->closed = true;
      wire.say(fd, read_request(131'072, length));
      wire.add({{"kind", "error"}, {"prefix", true}}, {{"ranges", {{131'072 + 4096, 512}}}});
      wire.gate->open();
      CHECK((wire.ask(fd, "", 4096 + 62) ==
             Faulty::chunk(0, k_reply_offset_data,
                           be(131'072, 8) + wire.content.substr(131'072, 4096)) +
                 error_at(131'072 + 4096)));

      // The part that should be good cannot be read.
      wire.failing->error = EIO;
      CHECK((wire.ask(fd, read_request(8192, length), 26) == error));
    }
}

TEST_CASE("a layer that changes what was read promises nothing of it", "[nbd][wire]") {
  Faulty wire(false, {{"cache", {}}, {"fault", {}}});
  Fd fd = wire.open_client(true);
  const std::string answer = Faulty::simple(k_cookie);
  REQUIRE(wire.ask(fd, request(k_cmd_flush, k_cookie, 0, 0), 16) == answer);
  // Newer than what the fault layer reads as good.
  REQUIRE(wire.ask(fd, request(k_cmd_write, k_cookie, 0, 512, std::string(512, 'n')), 16) ==
          answer);
  wire.add({{"kind", "medium"}}, {{"ranges", {{4096, 512}}}});
  CHECK((wire.ask(fd, read_request(), 26) ==
         Faulty::chunk(1, k_reply_error, be(k_eio, 4) + be(0, 2))));
  CHECK(wire.events().size() == 1);
}

namespace {

// What libnbd says of two reads on one connection, the first of which meets the fault: "connect"
// when it does not come to them, else "ok" or "failed" for each.
std::string libnbd_says(const json& what, bool structured) {
  const LibNbd& nbd = libnbd();
  static auto loop = *Loop::create();
  Geometry geometry;
  geometry.size = 1 << 20;
  auto disk = *build_stack(*make_memory_disk(geometry), fault_alone(),
                           {system_clock(), *loop, loop.get(), 0});
  REQUIRE(add_rule(*disk, {{"when", {{"times", 1}}}, {"do", what}}));
  TempDir dir;
  const ServerThread server(dir.path("s"), std::move(disk));
  std::string said;
  for (int round = 0; round < 2; ++round) {
    nbd_handle* handle = nbd.nbd_create();
    REQUIRE(handle != nullptr);
    nbd.nbd_set_request_structured_replies(handle, structured);
    said += round == 0 ? "" : ", then ";
    if (nbd.nbd_connect_unix(handle, dir.path("s").c_str()) != 0) {
      said += "connect";
    } else {
      char data[k_length];
      for (int i = 0; i < 2; ++i) {
        const bool good = nbd.nbd_pread(handle, data, sizeof data, 0, 0) == 0;
        said += good ? "ok " : "failed ";
      }
      said += nbd.nbd_aio_is_ready(handle) == 1 ? "ready" : "dead";
    }
    nbd.nbd_close(handle);
  }
  return said;
}

}  // namespace

TEST_CASE("libnbd sees each fault of the wire, and a new connection of its works", "[nbd][wire]") {
  const std::string well = ", then ok ok ready", lost = "failed failed dead" + well;
  for (const bool structured : {false, true}) {
    for (const char* at : {"request", "before_reply", "reply"})
      CHECK(libnbd_says(disconnect(at), structured) == lost);
    for (const char* at : {"greeting", "options", "export"})
      CHECK(libnbd_says(disconnect(at), structured) == "connect" + well);
    for (const char* what : {"magic", "cookie", "garbage"})
      CHECK(libnbd_says(violate(what), structured) == lost);
    CHECK(libnbd_says(violate("twice"), structured) == "ok failed dead" + well);
    CHECK(libnbd_says(violate("error_code"), structured) == "failed ok ready" + well);
    // Newer ones go on after a chunk that they do not understand, where its length is right.
    const std::string refused = "failed ok ready" + well;
    for (const char* what : {"chunk_type", "chunk_length"}) {
      const std::string said = libnbd_says(violate(what), structured);
      CHECK((said == lost || (structured && said == refused)));
    }
    CHECK(libnbd_says(violate("missing_data"), structured) == (structured ? refused : lost));
  }
}
