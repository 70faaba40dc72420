// SPDX-License-Identifier: MIT
// If this fails, bytes that belong to a request are taken for requests, answers go to the wrong
// one, or a client that sends without reading fills a server's memory.
#include <algorithm>
#include <thread>

#include <fmt/format.h>

#include "../catch.hpp"
#include "base/control.hpp"
#include "base/file.hpp"
#include "base/json.hpp"
#include "base/socket.hpp"
#include "base/text.hpp"

using namespace pv;

namespace {

constexpr size_t k_max_raw = 1 << 20;

// A server that answers "echo" with what it got and keeps the answers of "later" until "now".
struct Server {
  std::string path = fmt::format("/tmp/pv-control.{}.{}", getpid(), ++count);
  std::unique_ptr<Loop> loop = *Loop::create();
  std::vector<ControlServer::Reply> later;
  size_t seen = 0, abandoned = 0;
  ControlServer control{*loop,
                        [this](ControlServer::ConnectionId, const json& request, std::string raw,
                               const ControlServer::Reply& reply) {
                          ++seen;
                          const std::string op = get_string(request, "op");
                          if (op == "later") return later.push_back(reply);
                          reply(json{{"op", op}}, std::move(raw));
                          if (op != "now") return;
                          for (const auto& each : std::exchange(later, {}))
                            each(json{{"op", "later"}});
                        },
                        k_max_raw};
  static inline int count = 0;

  Server() {
    control.on_abandoned([this](ControlServer::ConnectionId) { ++abandoned; });
    REQUIRE(control.listen(path));
  }
  ~Server() { unlink(path.c_str()); }
  LineClient client() { return *LineClient::connect(path, Deadline::in_ms(5000)); }
  void spin(int rounds = 50) {
    for (int i = 0; i < rounds; ++i) static_cast<void>(loop->run_once(1));
  }
};

const Deadline soon() {
  return Deadline::in_ms(5000);
}

}  // namespace

TEST_CASE("control: bytes after a request are its own, whatever they look like and however cut",
          "[base]") {
  Server server;
  LineClient client = server.client();
  const std::string raw = "{\"op\":\"fake\"}\n\n{\"op\":";
  std::string text;
  for (int i = 0; i < 3; ++i)
    text += fmt::format("{{\"op\":\"echo\",\"raw_bytes\":{}}}\n{}", raw.size(), raw);
  for (const char c : text) {
    REQUIRE(write_all(client.fd(), std::string(1, c)));
    server.spin(1);
  }
  server.spin();
  for (int i = 0; i < 3; ++i) {
    const auto reply = client.read_json(soon());
    REQUIRE(reply);
    CHECK(get_string(*reply, "op") == "echo");
    CHECK(get_u64(*reply, "raw_bytes") == raw.size());
    CHECK(client.read_bytes(raw.size(), soon()).value_or("") == raw);
  }
  CHECK(server.seen == 3);
}

TEST_CASE("control: requests with a tag overtake, those without keep their order", "[base]") {
  Server server;
  LineClient client = server.client();
  for (const char* line : {R"({"op":"later","tag":7})", R"({"op":"a"})", R"({"op":"b"})",
                           R"({"op":"now","tag":8})", R"({"nop":1,"tag":9})"})
    REQUIRE(client.send(std::string(line) + "\n", soon()));
  server.spin();
  std::vector<std::string> order;
  for (int i = 0; i < 5; ++i) {
    const auto reply = client.read_json(soon());
    REQUIRE(reply);
    order.push_back(fmt::format("{}{}", get_string(*reply, "op"), get_u64(*reply, "tag")));
  }
  const auto at = [&](const char* what) {
    return std::find(order.begin(), order.end(), what) - order.begin();
  };
  CHECK(at("a0") < at("b0"));
  CHECK(at("now8") < at("later7"));
  CHECK(at("9") < 5);  // an error, but with its tag
}

TEST_CASE("control: a client that only sends is held back, and ends cleanly", "[base]") {
  Server server;
  LineClient client = server.client();
  const std::string raw(k_max_raw, 'x');
  const std::string request =
      fmt::format("{{\"op\":\"echo\",\"raw_bytes\":{}}}\n{}", raw.size(), raw);
  size_t sent = 0;
  std::thread sender([&] {
    while (sent < 64 && client.send(request, Deadline::in_ms(300))) ++sent;
  });
  server.spin(1500);
  sender.join();
  CHECK(sent < 32);  // what the bounds and the sockets take, no more
  CHECK(server.seen < 32);
}

TEST_CASE("control: more bytes than allowed end the connection; one that goes away is noticed",
          "[base]") {
  Server server;
  LineClient client = server.client();
  REQUIRE(
      client.send(fmt::format("{{\"op\":\"echo\",\"raw_bytes\":{}}}\n", k_max_raw + 1), soon()));
  server.spin();
  const auto reply = client.read_json(soon());
  REQUIRE(reply);
  CHECK(reply->contains("error"));
  CHECK_FALSE(client.read_line(soon()));
  for (const char* tag : {"", ",\"tag\":1"}) {
    LineClient waiting = server.client();
    REQUIRE(waiting.send(fmt::format("{{\"op\":\"later\"{}}}\n", tag), soon()));
    server.spin();
    Fd gone = waiting.release();
    gone.reset();
    server.spin();
  }
  CHECK(server.abandoned == 2);
  for (const auto& each : std::exchange(server.later, {})) each(json{{"op", "later"}});
}
