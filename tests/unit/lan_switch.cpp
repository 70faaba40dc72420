// SPDX-License-Identifier: MIT
// If this fails, VMs of a lan do not reach each other, or reach what they must not: frames that go
// to the wrong port, links that lose other frames in each run, latencies that are not kept.
#include <vector>

#include "../catch.hpp"
#include "base/timers.hpp"
#include "lan/frames.hpp"
#include "lan/switch.hpp"

using namespace pv;
using namespace pv::lan;

namespace {

constexpr uint64_t k_broadcast = 0xffffffffffff;

std::string frame(uint64_t to, uint64_t from, const std::string& payload = "") {
  std::string bytes;
  for (const uint64_t mac : {to, from})
    for (int shift = 40; shift >= 0; shift -= 8) bytes += static_cast<char>(mac >> shift & 0xff);
  return bytes + std::string("\x08\x00", 2) + payload;
}

// A switch whose ports 1, 2, 3 remember what they were sent.
struct SwitchRig {
  ManualClock clock;
  ManualTimers timers{clock};
  Switch lan{clock, timers};
  std::map<PortId, std::vector<std::string>> got;
  Switch::Sent answer = Switch::Sent::yes;

  SwitchRig() {
    for (PortId id : {1, 2, 3})
      lan.add(id, [this, id](std::string_view bytes) {
        if (answer == Switch::Sent::yes) got[id].emplace_back(bytes);
        return answer;
      });
  }
  std::vector<size_t> counts() { return {got[1].size(), got[2].size(), got[3].size()}; }
};

using Counts = std::vector<size_t>;

}  // namespace

TEST_CASE("lan: frames are cut from the stream, however it arrives", "[lan]") {
  const std::string a = frame(1, 2, "hello"), b(3, 'x'), c = frame(3, 4, std::string(2000, 'y'));
  const std::string stream = length_prefix(a.size()) + a + length_prefix(b.size()) + b +
                             length_prefix(0) + length_prefix(c.size()) + c;
  const std::vector<std::string> want = {a, b, "", c};
  for (size_t piece : {size_t{1}, size_t{3}, size_t{7}, stream.size()}) {
    FrameReader reader;
    std::vector<std::string> got;
    for (size_t at = 0; at < stream.size(); at += piece) {
      REQUIRE(reader.feed(std::string_view(stream).substr(at, piece)));
      while (const auto next = reader.next()) got.emplace_back(*next);
    }
    CHECK(got == want);
  }
}

TEST_CASE("lan: a length that no frame has ends the stream, also behind good frames", "[lan]") {
  CHECK(FrameReader().feed(length_prefix(k_max_frame)));
  CHECK_FALSE(FrameReader().feed(length_prefix(k_max_frame + 1)));
  CHECK_FALSE(FrameReader().feed("\xff\xff\xff\xff"));
  const std::string good = frame(1, 2);
  CHECK_FALSE(FrameReader().feed(length_prefix(good.size()) + good + "\xff\xff\xff\xff"));
  FrameReader reader;
  CHECK(reader.feed("\xff\xff\xff"));
  CHECK_FALSE(reader.feed("\xff"));
}

TEST_CASE("lan: unknown and broadcast go everywhere else, known addresses to one port", "[lan]") {
  SwitchRig rig;
  rig.lan.receive(1, frame(k_broadcast, 0xa1));
  CHECK(rig.counts() == Counts{0, 1, 1});
  rig.lan.receive(2, frame(0xa1, 0xa2));
  CHECK(rig.counts() == Counts{1, 1, 1});
  rig.lan.receive(1, frame(0xa2, 0xa1));
  CHECK(rig.counts() == Counts{1, 2, 1});
  rig.lan.receive(1, frame(0xee, 0xa1));
  CHECK(rig.counts() == Counts{1, 3, 2});
  // To itself: the other end knows already.
  rig.lan.receive(1, frame(0xa1, 0xa1));
  CHECK(rig.counts() == Counts{1, 3, 2});
  // A machine that moves is found where it was last heard.
  rig.lan.receive(3, frame(k_broadcast, 0xa1));
  rig.got.clear();
  rig.lan.receive(2, frame(0xa1, 0xa2));
  CHECK(rig.counts() == Counts{0, 0, 1});
  rig.lan.remove(3);
  rig.got.clear();
  rig.lan.receive(2, frame(0xa1, 0xa2));
  CHECK(rig.counts() == Counts{1, 0, 0});
}

TEST_CASE("lan: addresses of a port are bounded, and multicast is none", "[lan]") {
  SwitchRig rig;
  rig.lan.receive(2, frame(k_broadcast, 0xa2));
  for (uint64_t mac = 0; mac < 2 * Switch::k_max_addresses; ++mac)
    rig.lan.receive(1, frame(0xa2, 0x100000 + mac));
  rig.lan.receive(1, frame(0xa2, k_broadcast));
  rig.got.clear();
  rig.lan.receive(2, frame(0x100000, 0xa2));
  CHECK(rig.counts() == Counts{1, 0, 0});
  // The ones too many are not known, hence flooded; those of other ports still are.
  rig.lan.receive(2, frame(0x100000 + 2 * Switch::k_max_addresses - 1, 0xa2));
  CHECK(rig.counts() == Counts{2, 0, 1});
  rig.lan.receive(3, frame(0xa2, 0xa3));
  CHECK(rig.counts() == Counts{2, 1, 1});
}

TEST_CASE("lan: what is no frame is counted and goes nowhere", "[lan]") {
  SwitchRig rig;
  for (size_t bytes = 0; bytes < k_ethernet_header; ++bytes)
    rig.lan.receive(1, std::string(bytes, '\xff'));
  CHECK(rig.counts() == Counts{0, 0, 0});
  CHECK(rig.lan.counters(1).malformed == k_ethernet_header);
  CHECK(rig.lan.counters(1).frames_in == 0);
  rig.lan.receive(7, frame(1, 2));  // a port that is not there
}

TEST_CASE("lan: latency is kept in each direction and in order", "[lan]") {
  SwitchRig rig;
  LinkSettings slow;
  slow.latency_ns = 10 * k_ns_per_ms;
  rig.lan.set_link(2, slow);
  rig.lan.receive(1, frame(k_broadcast, 0xa1, "1"));
  rig.lan.receive(1, frame(k_broadcast, 0xa1, "2"));
  CHECK(rig.counts() == Counts{0, 0, 2});
  rig.timers.advance_ns(10 * k_ns_per_ms - 1);
  CHECK(rig.counts() == Counts{0, 0, 2});
  rig.timers.advance_ns(1);
  CHECK(rig.counts() == Counts{0, 2, 2});
  CHECK(rig.got[2] == rig.got[3]);
  rig.lan.receive(2, frame(0xa1, 0xa2));
  CHECK(rig.counts() == Counts{0, 2, 2});
  rig.timers.advance_ns(10 * k_ns_per_ms);
  CHECK(rig.counts() == Counts{1, 2, 2});
  CHECK(rig.timers.empty());
}

TEST_CASE("lan: jitter delays by up to what was asked for and keeps the order", "[lan]") {
  SwitchRig rig;
  LinkSettings link;
  link.latency_ns = k_ns_per_ms;
  link.jitter_ns = 5 * k_ns_per_ms;
  rig.lan.set_link(2, link);
  std::vector<std::string> sent;
  for (char c = 'a'; c <= 'z'; ++c) {
    sent.push_back(frame(k_broadcast, 0xa1, std::string(1, c)));
    rig.lan.receive(1, sent.back());
  }
  rig.timers.advance_ns(k_ns_per_ms - 1);
  CHECK(rig.got[2].empty());
  rig.timers.advance_ns(5 * k_ns_per_ms + 1);
  CHECK(rig.got[2] == sent);
}

TEST_CASE("lan: loss is the share asked for, and the same frames for the same seed", "[lan]") {
  const auto survivors = [](uint64_t seed) {
    SwitchRig rig;
    LinkSettings link;
    link.loss = 0.3;
    link.seed = seed;
    rig.lan.set_link(2, link);
    for (int i = 0; i < 1000; ++i) rig.lan.receive(1, frame(k_broadcast, 0xa1, std::to_string(i)));
    CHECK(rig.got[2].size() + rig.lan.counters(2).dropped.loss == 1000);
    CHECK(rig.got[3].size() == 1000);
    return rig.got[2];
  };
  const auto first = survivors(1);
  CHECK(first.size() > 620);
  CHECK(first.size() < 780);
  CHECK(survivors(1) == first);
  CHECK(survivors(2) != first);
}

TEST_CASE("lan: a link that is down passes nothing, nor what was on its way", "[lan]") {
  SwitchRig rig;
  LinkSettings link;
  link.latency_ns = k_ns_per_ms;
  rig.lan.set_link(2, link);
  rig.lan.receive(1, frame(k_broadcast, 0xa1));
  link.up = false;
  rig.lan.set_link(2, link);
  rig.timers.advance_ns(k_ns_per_s);
  rig.lan.receive(1, frame(k_broadcast, 0xa1));
  rig.lan.receive(2, frame(k_broadcast, 0xa2));
  CHECK(rig.counts() == Counts{0, 0, 2});
  CHECK(rig.lan.counters(2).dropped.link_down == 3);
  link = {};
  rig.lan.set_link(2, link);
  rig.lan.receive(1, frame(k_broadcast, 0xa1));
  CHECK(rig.counts() == Counts{0, 1, 3});
}

TEST_CASE("lan: a link holds so much and no more", "[lan]") {
  SwitchRig rig;
  LinkSettings link;
  link.latency_ns = k_ns_per_s;
  rig.lan.set_link(2, link);
  const std::string large = frame(k_broadcast, 0xa1, std::string(60000, 'x'));
  for (int i = 0; i < 300; ++i) rig.lan.receive(1, large);
  const size_t fit = Wire::k_max_bytes / large.size();
  CHECK(rig.lan.counters(2).dropped.queue_full == 300 - fit);
  rig.timers.advance_ns(k_ns_per_s);
  CHECK(rig.got[2].size() == fit);
  for (size_t i = 0; i < Wire::k_max_frames + 5; ++i) rig.lan.receive(1, frame(k_broadcast, 0xa1));
  CHECK(rig.lan.counters(2).dropped.queue_full == 300 - fit + 5);
}

TEST_CASE("lan: a slow receiver is counted, an absent one gets nothing", "[lan]") {
  SwitchRig rig;
  rig.answer = Switch::Sent::no_room;
  rig.lan.receive(1, frame(k_broadcast, 0xa1));
  CHECK(rig.lan.counters(2).slow_receiver == 1);
  rig.answer = Switch::Sent::nobody;
  rig.lan.receive(1, frame(k_broadcast, 0xa1));
  CHECK(rig.lan.counters(2).slow_receiver == 1);
  CHECK(rig.lan.counters(2).frames_out == 0);
}
