// SPDX-License-Identifier: MIT
// If this fails, a delay ends early, a callback runs after it was cancelled, or the loop hands an
// event to a handler that has let go of its descriptor.
#include <csignal>
#include <sys/eventfd.h>
#include <thread>

#include "../catch.hpp"
#include "../conform/support.hpp"
#include "base/defer.hpp"
#include "base/file.hpp"
#include "base/json.hpp"
#include "base/loop.hpp"
#include "base/socket.hpp"

using namespace pv;
using namespace pv::test;

TEST_CASE("the timer queue runs like a sorted list, whatever is added and cancelled", "[base]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  Rng rng(seed);
  TimerQueue queue;
  std::map<std::pair<uint64_t, TimerId>, bool> model;
  std::vector<TimerId> ran, wanted, known;
  uint64_t now = 0;
  for (int step = 0; step < 2000; ++step) {
    switch (rng.below(4)) {
      case 0:
      case 1: {
        const uint64_t at = now + rng.below(50);
        auto id = std::make_shared<TimerId>(0);
        *id = queue.add(at, [&ran, id] { ran.push_back(*id); });
        CHECK(*id != 0);
        model[{at, *id}] = true;
        known.push_back(*id);
        break;
      }
      case 2: {
        const TimerId id = known.empty() ? 99 : known[rng.below(known.size())];
        queue.cancel(id);
        for (auto it = model.begin(); it != model.end(); ++it)
          if (it->first.second == id) {
            model.erase(it);
            break;
          }
        break;
      }
      default: {
        now += rng.below(30);
        while (!model.empty() && model.begin()->first.first <= now) {
          wanted.push_back(model.begin()->first.second);
          model.erase(model.begin());
        }
        queue.run_due(now);
      }
    }
    CHECK(queue.empty() == model.empty());
    CHECK(queue.next_deadline() == (model.empty() ? UINT64_MAX : model.begin()->first.first));
  }
  CHECK(ran == wanted);
}

TEST_CASE("callbacks may add and cancel timers, their own and those due with them", "[base]") {
  TimerQueue queue;
  std::string order;
  TimerId second = 0;
  queue.add(10, [&] {
    order += 'a';
    queue.cancel(second);
    queue.add(10, [&] { order += 'c'; });
    queue.add(20, [&] { order += 'd'; });
  });
  second = queue.add(10, [&] { order += 'b'; });
  queue.run_due(10);
  CHECK(order == "ac");
  queue.run_due(20);
  CHECK(order == "acd");
  queue.cancel(second);
  queue.cancel(0);
}

TEST_CASE("a timer of the loop never fires early, and those set later fire later", "[base]") {
  auto loop = *Loop::create();
  std::vector<int> order;
  const uint64_t start = system_clock().now_ns();
  uint64_t fired = 0;
  // In this order: between two of them the machine may do something else for long.
  loop->after(0, [&] { order.push_back(1); });
  loop->after(5 * k_ns_per_ms, [&] { order.push_back(2); });
  loop->after(20 * k_ns_per_ms, [&] {
    fired = system_clock().now_ns();
    order.push_back(3);
    loop->stop();
  });
  const TimerId cancelled = loop->after(1 * k_ns_per_ms, [&] { order.push_back(9); });
  loop->cancel(cancelled);
  REQUIRE(loop->run());
  CHECK(order == std::vector<int>{1, 2, 3});
  CHECK(fired - start >= 20 * k_ns_per_ms);
}

TEST_CASE("what is posted runs before the loop waits, also when posted from a post", "[base]") {
  auto loop = *Loop::create();
  std::string order;
  loop->post([&] {
    order += 'a';
    loop->post([&] {
      order += 'b';
      loop->stop();
    });
  });
  REQUIRE(loop->run());
  CHECK(order == "ab");
}

TEST_CASE("an event for a descriptor that was let go in the same round is dropped", "[base]") {
  auto loop = *Loop::create();
  Fd one(eventfd(1, EFD_CLOEXEC)), two(eventfd(1, EFD_CLOEXEC));
  int calls = 0;
  const auto once = [&](int other) {
    return [&, other](uint32_t) {
      ++calls;
      loop->unwatch(one.get());
      loop->unwatch(two.get());
      // The number is used again at once: its new owner has nothing to do with the old event.
      static_cast<void>(loop->watch(other, EPOLLOUT, [&](uint32_t) { calls += 100; }));
      loop->unwatch(other);
    };
  };
  REQUIRE(loop->watch(one.get(), EPOLLIN, once(two.get())));
  REQUIRE(loop->watch(two.get(), EPOLLIN, once(one.get())));
  for (int i = 0; i < 3; ++i) REQUIRE(loop->run_once(0));
  CHECK(calls == 1);
}

TEST_CASE("a handler may let go of itself while it runs, and is not called again", "[base]") {
  auto loop = *Loop::create();
  Fd event(eventfd(1, EFD_CLOEXEC));
  auto owned = std::make_shared<int>(0);
  const std::weak_ptr<int> watcher = owned;
  REQUIRE(loop->watch(event.get(), EPOLLIN, [&, owned](uint32_t) {
    loop->unwatch(event.get());
    ++*owned;  // still alive
  }));
  owned.reset();
  for (int i = 0; i < 3; ++i) REQUIRE(loop->run_once(0));
  CHECK(watcher.expired());
}

TEST_CASE("change() switches what is waited for", "[base]") {
  auto loop = *Loop::create();
  Fd event(eventfd(0, EFD_CLOEXEC));
  int calls = 0;
  REQUIRE(loop->watch(event.get(), EPOLLIN, [&](uint32_t) { ++calls; }));
  REQUIRE(loop->run_once(0));
  CHECK(calls == 0);
  loop->change(event.get(), EPOLLOUT);
  REQUIRE(loop->run_once(0));
  CHECK(calls == 1);
  loop->change(event.get(), 0);
  REQUIRE(loop->run_once(0));
  CHECK(calls == 1);
  loop->unwatch(event.get());
  loop->change(event.get(), EPOLLOUT);  // a stranger by now
  REQUIRE(loop->run_once(0));
  CHECK(calls == 1);
}

TEST_CASE("signals arrive as events", "[base]") {
  auto loop = *Loop::create();
  int got = 0;
  sigset_t old;
  pthread_sigmask(SIG_BLOCK, nullptr, &old);
  REQUIRE(loop->on_signals({SIGUSR1}, [&](int signal) {
    got = signal;
    loop->stop();
  }));
  raise(SIGUSR1);
  REQUIRE(loop->run());
  CHECK(got == SIGUSR1);
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
}

TEST_CASE("a deadline is 0 once it has passed and never overflows", "[base]") {
  CHECK(Deadline::in_ns(0).passed());
  CHECK(Deadline::in_ns(0).left_ms() == 0);
  CHECK(Deadline::in_ns(UINT64_MAX).left_ms() == INT32_MAX);
  const Deadline soon = Deadline::in_ns(1);
  sleep_ns(1000);
  CHECK(soon.passed());
  CHECK_FALSE(Deadline::in_ms(60'000).passed());
}

TEST_CASE("a control conversation survives any cut of its bytes", "[base]") {
  TempDir dir;
  auto listener = listen_unix(dir.path("s"));
  REQUIRE(listener);
  auto client = LineClient::connect(dir.path("s"), Deadline::in_ms(5000));
  REQUIRE(client);
  Fd server = accept_unix(listener->get());
  REQUIRE(server);
  CHECK(peer_pid(server.get()) == getpid());
  std::thread talker([&] {
    for (const char c :
         std::string("{\"a\":1}\n{\"error\":{\"code\":\"io\",\"message\":\"m\"}}\nABC"))
      static_cast<void>(write_all(server.get(), std::string(1, c)));
    server.reset();
  });
  DEFER(talker.join());
  const Deadline deadline = Deadline::in_ms(10'000);
  const auto first = client->read_json(deadline);
  REQUIRE(first);
  CHECK((*first)["a"] == 1);
  CHECK(client->read_line(deadline));
  CHECK(client->read_bytes(3, deadline).value_or("") == "ABC");
  const auto after = client->read_line(deadline);
  REQUIRE_FALSE(after);
  CHECK(after.error().code == Code::server_dead);
}

TEST_CASE("a socket path that is too long is refused with a hint, a silent peer is a timeout",
          "[base]") {
  const auto refused = listen_unix("/tmp/" + std::string(k_max_socket_path, 'x'));
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == Code::invalid);
  TempDir dir;
  auto listener = listen_unix(dir.path("s"));
  REQUIRE(listener);
  auto client = LineClient::connect(dir.path("s"), Deadline::in_ms(5000));
  REQUIRE(client);
  const auto silent = client->read_line(Deadline::in_ms(10));
  REQUIRE_FALSE(silent);
  CHECK(silent.error().code == Code::timeout);
}
