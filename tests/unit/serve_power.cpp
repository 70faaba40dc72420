// SPDX-License-Identifier: MIT
// If this fails, a disk promises something after its power was cut, keeps a client, or lets an old
// request happen after the power is back.
#include <cerrno>
#include <fcntl.h>

#include "base/control.hpp"
#include "front/nbd/server.hpp"
#include "layer_rig.hpp"
#include "nbd_rig.hpp"
#include "serve/power.hpp"

namespace {

using namespace pv;
using namespace pv::test;
using serve::Power;

const std::string k_ok = be(nbd::k_simple_reply_magic, 4) + be(0, 4);

// A served cache over a probe, and what the last cut has answered.
struct PowerRig {
  TempDir dir;
  std::unique_ptr<Loop> loop = *Loop::create();
  Probe* below = nullptr;
  std::unique_ptr<Disk> disk;
  Counters counters;
  std::unique_ptr<nbd::Server> server;
  std::unique_ptr<serve::ControlOps> ops;
  std::unique_ptr<Power> power;
  std::optional<Result<json>> reply;

  explicit PowerRig(bool mediated = true) {
    auto bottom = std::make_unique<Probe>(*make_memory_disk(LayerRig::small()));
    bottom->shown = LayerRig::small();
    below = bottom.get();
    const std::vector<LayerSpec> layers = {{"cache", {}}};
    disk = *build_stack(std::move(bottom), layers, {system_clock(), *loop, loop.get(), 0}, true);
    server = std::make_unique<nbd::Server>(*loop, *listen_unix(dir.path("s")), *disk, counters,
                                           nbd::Export{"disk", "a disk", disk->geometry()});
    REQUIRE(server->start());
    ops = std::make_unique<serve::ControlOps>(*disk, counters, [] { return json(); });
    power = std::make_unique<Power>(Power::Parts{*loop, *disk, counters, *server, *ops, mediated});
  }
  ~PowerRig() {
    below->error = 0;
    below->open();
    spin(8);
  }
  void spin(int rounds = 4) {
    for (int i = 0; i < rounds; ++i) REQUIRE(loop->run_once(0));
  }
  void spin_until_replied() {
    const Deadline deadline = Deadline::in_ms(20'000);
    while (!reply && !deadline.passed()) REQUIRE(loop->run_once(1));
    REQUIRE(reply);
  }
  Fd connect() {
    auto fd = connect_unix(dir.path("s"), Deadline::in_ms(5000));
    REQUIRE(fd);
    fcntl(fd->get(), F_SETFL, O_NONBLOCK);
    say(*fd, go(false));
    take(*fd);
    return std::move(*fd);
  }
  void say(Fd& fd, const std::string& bytes) {
    REQUIRE(send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(bytes.size()));
    spin();
  }
  std::string take(Fd& fd) {
    std::string out;
    char chunk[65536];
    for (ssize_t n; (n = recv(fd.get(), chunk, sizeof chunk, 0)) > 0;)
      out.append(chunk, static_cast<size_t>(n));
    return out;
  }
  bool closed(Fd& fd) {
    char byte;
    return recv(fd.get(), &byte, 1, MSG_PEEK) == 0;
  }
  serve::Reply into(std::optional<Result<json>>& place) {
    return serve::Reply([&place](Result<json> result, const std::string&) { place = result; });
  }
  // As they come over a socket: numbers are unsigned there.
  static json sent(const json& request) { return *parse_json(to_line(request)); }
  void cut(const json& request) { power->cut(1, sent(request), into(reply)); }
  Result<json> check(const json& request) { return power->check(sent(request)); }
};

std::string write_of(uint64_t cookie, uint64_t at, char c, uint16_t flags = 0) {
  return request(nbd::k_cmd_write, cookie, at, 4096, many(c, 4096), flags);
}

std::string read_of(uint64_t cookie, uint64_t at) {
  return request(nbd::k_cmd_read, cookie, at, 4096);
}

TEST_CASE("a frozen disk takes and answers nothing; thawed, it goes on", "[power]") {
  PowerRig rig;
  Fd fd = rig.connect();
  rig.below->closed = true;
  rig.say(fd, write_of(1, 0, 'a', nbd::k_cmd_flag_fua));
  rig.say(fd, write_of(2, 65'536, 'b'));
  CHECK(rig.take(fd) == k_ok + be(2, 8));
  REQUIRE(rig.power->freeze(1));
  rig.below->open();
  rig.say(fd, write_of(3, 8192, 'c'));
  Fd late = *connect_unix(rig.dir.path("s"), Deadline::in_ms(5000));
  rig.spin();
  CHECK(rig.server->connections() == 1);
  CHECK(rig.take(fd).empty());
  CHECK(rig.below->content(0, 4096) == many('a', 4096));
  rig.power->ended(2);  // somebody else
  CHECK_FALSE(rig.power->on());
  rig.power->ended(1);
  rig.spin();
  CHECK(rig.take(fd) == k_ok + be(1, 8) + k_ok + be(3, 8));
  CHECK(rig.server->connections() == 2);
}

TEST_CASE("half a write that came before the freeze is no request", "[power]") {
  PowerRig rig;
  Fd fd = rig.connect();
  const std::string whole = write_of(1, 0, 'a');
  rig.say(fd, whole.substr(0, 2000));
  REQUIRE(rig.power->freeze(1));
  rig.say(fd, whole.substr(2000));
  rig.cut({{"survivors", "all"}});
  rig.spin_until_replied();
  REQUIRE(*rig.reply);
  CHECK((**rig.reply)["kept_bytes"] == 0);
  CHECK(rig.below->content(0, 4096) == many('\0', 4096));
  CHECK(rig.counters.in_flight() == 0);
}

TEST_CASE("a cut hangs up, waits for what is on its way, and serves what is left", "[power]") {
  PowerRig rig;
  Fd one = rig.connect(), two = rig.connect();
  rig.say(one, write_of(1, 0, 'f') + request(nbd::k_cmd_flush, 2, 0, 0) + write_of(3, 0, 'u'));
  CHECK(rig.take(one).size() == 3 * 16);
  rig.below->closed = true;
  rig.say(two, write_of(4, 8192, 'w', nbd::k_cmd_flag_fua));
  REQUIRE(rig.power->freeze(1));
  rig.cut({{"survivors", "none"}});
  rig.spin();
  CHECK((rig.closed(one) && rig.closed(two)));
  CHECK_FALSE(rig.reply);
  rig.below->open();
  rig.spin_until_replied();
  REQUIRE(*rig.reply);
  CHECK((**rig.reply)["dropped_bytes"] == 4096);
  CHECK(rig.power->on());
  Fd again = rig.connect();
  rig.say(again, read_of(5, 0));
  CHECK(rig.take(again) == k_ok + be(5, 8) + many('f', 4096));
  rig.say(again, read_of(6, 8192));
  CHECK(rig.take(again) == k_ok + be(6, 8) + many('w', 4096));
}

TEST_CASE("survivors are flushed below before the cut is answered", "[power]") {
  PowerRig rig;
  Fd fd = rig.connect();
  rig.say(fd, write_of(1, 0, 'a') + write_of(2, 4096, 'b'));
  REQUIRE(rig.power->freeze(1));
  rig.cut({{"survivors", "listed"}, {"keep", {{4096, 4096}}}});
  rig.spin_until_replied();
  REQUIRE(*rig.reply);
  CHECK(rig.below->seen ==
        std::vector<Probe::Seen>{{Op::write, 4096, 4096, 0}, {Op::flush, 0, 0, k_internal}});
  CHECK(rig.below->content(0, 8192) == many('\0', 4096) + many('b', 4096));
}

TEST_CASE("survivors that cannot be written are an error, and are lost", "[power]") {
  PowerRig rig;
  Fd fd = rig.connect();
  rig.say(fd, write_of(1, 0, 'a'));
  REQUIRE(rig.power->freeze(1));
  rig.below->error = ENOSPC;
  rig.cut({{"survivors", "all"}});
  rig.spin_until_replied();
  REQUIRE_FALSE(*rig.reply);
  CHECK(rig.reply->error().code == Code::io);
  CHECK_THAT(rig.reply->error().message, contains_text("ENOSPC"));
  rig.below->error = 0;
  Fd again = rig.connect();
  rig.say(again, read_of(5, 0));
  CHECK(rig.take(again) == k_ok + be(5, 8) + many('\0', 4096));
}

TEST_CASE("a disk whose requests do not end stays off until they have", "[power]") {
  PowerRig rig;
  Fd fd = rig.connect();
  rig.below->closed = true;
  rig.say(fd, write_of(1, 0, 'a', nbd::k_cmd_flag_fua));
  REQUIRE(rig.power->freeze(1));
  rig.cut({{"survivors", "none"}, {"timeout_ms", 1}});
  rig.spin_until_replied();
  REQUIRE_FALSE(*rig.reply);
  CHECK(rig.reply->error().code == Code::timeout);
  CHECK_FALSE(rig.power->on());
  CHECK(rig.power->freeze(2).error().code == Code::wrong_state);
  rig.below->open();
  const Deadline deadline = Deadline::in_ms(20'000);
  while (!rig.power->on() && !deadline.passed()) REQUIRE(rig.loop->run_once(1));
  CHECK(rig.power->on());
}

TEST_CASE("a host's request that the cut meets is aborted, one that comes later waits", "[power]") {
  PowerRig rig;
  rig.below->closed = true;
  const auto write = [&](std::optional<Result<json>>& into) {
    const json request = {
        {"op", "write"}, {"offset_bytes", 0}, {"length_bytes", 512}, {"fua", true}};
    rig.ops->handle(request, many('h', 512), rig.into(into));
  };
  std::optional<Result<json>> met, later;
  write(met);
  REQUIRE(rig.power->freeze(1));
  write(later);
  rig.cut({{"survivors", "none"}});
  rig.below->open();
  rig.spin_until_replied();
  rig.spin();
  REQUIRE((met && later));
  REQUIRE_FALSE(*met);
  CHECK(met->error().code == Code::aborted);
  CHECK(later->has_value());
}

TEST_CASE("a cut that cannot be made as asked is refused before anything happens", "[power]") {
  PowerRig rig;
  CHECK(rig.check({{"survivors", "none"}}));
  CHECK(rig.check({{"survivors", "listed"}, {"keep", {{1 << 20, 512}}}}).error().code ==
        Code::out_of_range);
  CHECK(PowerRig(false).check({{"survivors", "none"}}).error().code == Code::not_mediated);
  rig.cut({{"survivors", "none"}});
  REQUIRE(rig.reply);
  CHECK(rig.reply->error().code == Code::wrong_state);
  CHECK(rig.power->on());
  REQUIRE(rig.power->freeze(1));
  CHECK(rig.power->freeze(2).error().code == Code::wrong_state);
  rig.power->ended(1);
  CHECK(rig.power->on());
}

}  // namespace
