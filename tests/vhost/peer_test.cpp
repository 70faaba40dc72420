// SPDX-License-Identifier: MIT
// What the driver makes of answers that QEMU's server does not give: a peer that says what it is
// told to. If one of these fails, the driver takes a wrong answer for a right one, or loses a right
// one.
#include <atomic>
#include <map>
#include <sys/stat.h>
#include <thread>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "base/socket.hpp"
#include "driver/driver.hpp"

namespace pv::test::vhost {
namespace {

// Serves one connection from a table of answers, in a thread of its own.
class Peer {
 public:
  struct Answer {
    std::string payload;
    int fd = -1;
    uint32_t flags = k_version | k_reply;
  };
  std::map<uint32_t, Answer> answers;  // by message; others are acknowledged with 0 when asked to

  Peer() {
    auto listening = listen_unix(socket());
    REQUIRE(listening);
    listener_ = std::move(*listening);
    const uint64_t features = k_f_protocol_features | k_f_version_1;
    answers[request::get_features] = {bytes_of(features)};
    answers[request::get_protocol_features] = {bytes_of(k_p_known)};
    answers[request::get_queue_num] = {bytes_of(uint64_t{4})};
  }
  ~Peer() {
    if (thread_.joinable()) thread_.join();  // the driver has hung up, or its time is over
  }

  std::string socket() const { return dir_.path("s"); }
  void serve() {
    thread_ = std::thread([this] { run(); });
  }
  // What it was given with SET_BACKEND_REQ_FD and SET_INFLIGHT_FD.
  std::atomic<int> backend_fd = -1, inflight_fd = -1;

 private:
  void run() {
    const Deadline deadline = Deadline::in_ms(10'000);
    Fd accepted;
    while (!accepted && !deadline.passed()) {
      accepted = accept_unix(listener_.get());
      if (!accepted) sleep_ns(k_ns_per_ms);
    }
    Channel channel(std::move(accepted));
    while (true) {
      auto message = channel.receive(deadline);
      if (!message) return;
      const uint32_t request = message->request;
      if (request == request::set_backend_req_fd) backend_fd = message->fds.at(0).get();
      if (request == request::set_inflight_fd) inflight_fd = message->fds.at(0).get();
      for (Fd& fd : message->fds) kept_.push_back(std::move(fd));
      const auto found = answers.find(request);
      if (found == answers.end() && (message->flags & k_need_reply) == 0) continue;
      const Answer answer = found == answers.end() ? Answer{bytes_of(uint64_t{0})} : found->second;
      Message reply{request, answer.payload, {}, answer.flags};
      if (answer.fd >= 0) reply.fds.push_back(answer.fd);
      if (!channel.send(reply, deadline)) return;
    }
  }

  TempDir dir_;
  Fd listener_;
  std::vector<Fd> kept_;
  std::thread thread_;
};

template <class T>
Code code_of(const Result<T>& result) {
  REQUIRE_FALSE(result);
  return result.error().code;
}

std::unique_ptr<Driver> connected(Peer& peer) {
  peer.serve();
  auto driver = Driver::make({.queues = 2, .limit_ms = 20'000});
  REQUIRE(driver);
  REQUIRE((*driver)->connect(peer.socket()));
  return std::move(*driver);
}

}  // namespace

TEST_CASE("the vhost-user driver keeps an in-flight region and hands it on", "[vhost-driver]") {
  Peer peer;
  auto region = make_memfd("region", 1 << 16);
  REQUIRE(region);
  const Inflight area{8192, 4096, 2, 128, 0};
  peer.answers[request::get_inflight_fd] = {bytes_of(area), region->get()};
  auto driver = connected(peer);
  REQUIRE(driver->negotiate());
  REQUIRE(driver->get_inflight());
  auto mapped = Mapping::make(region->get(), 8192, 4096);
  REQUIRE(mapped);
  mapped->data()[sizeof(InflightQueue) + 3 * sizeof(InflightState)] = 1;
  CHECK(driver->inflight_state(0, 3)->inflight == 1);
  CHECK(driver->inflight_state(0, 4)->inflight == 0);
  CHECK(driver->inflight(1) != nullptr);
  CHECK(driver->inflight(2) == nullptr);
  REQUIRE(driver->set_inflight());
  struct stat ours {
  }, theirs{};
  REQUIRE(fstat(region->get(), &ours) == 0);
  REQUIRE(fstat(peer.inflight_fd, &theirs) == 0);
  CHECK(ours.st_ino == theirs.st_ino);
}

TEST_CASE("an in-flight region that is too small is refused", "[vhost-driver]") {
  Peer peer;
  auto region = make_memfd("region", 4096);
  REQUIRE(region);
  peer.answers[request::get_inflight_fd] = {bytes_of(Inflight{4096, 0, 2, 128, 0}), region->get()};
  auto driver = connected(peer);
  REQUIRE(driver->negotiate());
  CHECK(code_of(driver->get_inflight()) == Code::bug);
}

TEST_CASE("the vhost-user driver hears a change of configuration", "[vhost-driver]") {
  Peer peer;
  auto driver = connected(peer);
  REQUIRE(driver->negotiate());
  Channel theirs(Fd(dup(peer.backend_fd)));
  Message change{backend_request::config_change};
  change.flags = k_version | k_need_reply;
  REQUIRE(theirs.send(change, driver->deadline()));
  auto heard = driver->backend_request();
  REQUIRE(heard);
  CHECK(heard->request == backend_request::config_change);
  REQUIRE(driver->answer_backend(*heard, 0));
  const auto answer = theirs.receive(driver->deadline());
  REQUIRE(answer);
  CHECK(answer->flags == (k_version | k_reply));
  CHECK(answer->payload == std::string(8, '\0'));
}

TEST_CASE("a vhost-user message that is refused is an error", "[vhost-driver]") {
  Peer peer;
  peer.answers[request::set_vring_num] = {bytes_of(uint64_t{1})};
  auto driver = connected(peer);
  REQUIRE(driver->negotiate());
  CHECK(code_of(driver->set_vring_num(0, 3)) == Code::invalid);
  CHECK(driver->set_vring_base(0, 0));
}

TEST_CASE("vhost-user answers that are none are told from right ones", "[vhost-driver]") {
  Peer peer;
  SECTION("no reply flag") {
    peer.answers[request::get_features].flags = k_version;
  }
  SECTION("another version") {
    peer.answers[request::get_features].flags = 2 | k_reply;
  }
  SECTION("too short") {
    peer.answers[request::get_features].payload = "1234";
  }
  auto driver = connected(peer);
  CHECK(code_of(driver->negotiate()) == Code::bug);
}

TEST_CASE("configuration that the vhost-user server refuses is an error", "[vhost-driver]") {
  Peer peer;
  peer.answers[request::get_config] = {};
  peer.answers[request::get_config].flags = k_version | k_reply;
  auto driver = connected(peer);
  REQUIRE(driver->negotiate());
  CHECK(code_of(driver->get_config(0, 60)) == Code::invalid);
}

TEST_CASE("a used element of nothing that is in flight is an error", "[vhost-driver]") {
  auto memory = Memory::make(default_regions());
  REQUIRE(memory);
  auto queue = Queue::make(*memory, 8);
  REQUIRE(queue);
  const auto head = queue->add(std::vector<Segment>{{0x100000, 512, true}});
  REQUIRE(head);
  queue->publish(*head);
  const UsedElement wrong{*head + 1u, 0}, right{*head, 512};
  memory->write(queue->used_at() + 4, bytes_of(wrong));
  memory->write(queue->used_at() + 12, bytes_of(right));
  queue->set_used_idx(1);
  CHECK(code_of(queue->take()) == Code::bug);
  queue->set_used_idx(2);
  const auto taken = queue->take();
  REQUIRE(taken);
  CHECK((*taken)->len == 512);
  // Once only.
  memory->write(queue->used_at() + 20, bytes_of(right));
  queue->set_used_idx(3);
  CHECK(code_of(queue->take()) == Code::bug);
}

TEST_CASE("the vhost-user driver kicks when the event index is passed, and only then",
          "[vhost-driver]") {
  auto memory = Memory::make(default_regions());
  REQUIRE(memory);
  auto queue = Queue::make(*memory, 8);
  REQUIRE(queue);
  queue->use_event_idx(true);
  const auto set_event = [&](uint16_t event) {
    memory->write(queue->used_at() + 4 + 8 * 8, bytes_of(event));
  };
  const auto head = queue->add(std::vector<Segment>{{0x100000, 512, true}});
  REQUIRE(head);
  set_event(2);
  queue->publish(*head);
  CHECK_FALSE(queue->kick());  // 1
  queue->publish(*head);
  CHECK_FALSE(queue->kick());  // 2
  queue->publish(*head);
  CHECK(queue->kick());  // 3: past 2
  queue->publish(*head);
  CHECK_FALSE(queue->kick());  // 4
  queue->use_event_idx(false);
  queue->publish(*head);
  CHECK(queue->kick());
  memory->write(queue->used_at(), bytes_of(k_used_no_notify));
  queue->publish(*head);
  CHECK_FALSE(queue->kick());
}

}  // namespace pv::test::vhost
