// SPDX-License-Identifier: MIT
// If this fails, the journal or the counters tell something else than what happened.
#include <cerrno>
#include <set>

#include "blk/wire.hpp"
#include "fault_rig.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

namespace {

// A random history: rules come and go, time passes, requests are held back and let go.
struct History {
  Rig rig;
  std::vector<std::unique_ptr<Io>> all;
  std::map<std::string, uint64_t> fired;
  int next = 0;

  void add_rule(Rng& rng) {
    const bool slow = rng.below(2) == 0;
    json rule = slow ? delay_rule("", static_cast<double>(1 + rng.below(30)))
                     : error_rule("", rng.below(2) ? "read" : "write", "ENOSPC");
    rule["id"] = fmt::format("q{}", next++);
    rule["when"] = {
        {"after", rng.below(3)}, {"every", 1 + rng.below(3)}, {"probability", 0.7}, {"seed", "5"}};
    if (rng.below(2) == 0) rule["when"]["times"] = 1 + rng.below(5);
    rig.add(rule);
  }
  void clear_rule(Rng& rng) {
    const json rules = rig.rules();
    if (rules.empty()) return;
    const json& victim = rules[rng.below(rules.size())];
    fired[victim["id"]] = victim["fired"];
    rig.clear(victim["id"]);
  }
  void submit(Rng& rng) {
    const Op op = rng.below(2) ? Op::read : Op::write;
    all.push_back(std::make_unique<Io>(op, rng.below(100) * 512, 512));
    if (rng.below(2) == 0) all.back()->request.front = Front::nbd;
    rig.submit(*all.back());
  }
  void step(Rng& rng) {
    switch (rng.below(8)) {
      case 0:
        return add_rule(rng);
      case 1:
        return clear_rule(rng);
      case 2:
        return rig.advance_ms(rng.below(20));
      case 3:
        if (rng.below(2) == 0)
          rig.gate->closed = true;
        else
          rig.gate->open();
        return;
      default:
        return submit(rng);
    }
  }
  void finish() {
    for (int i = 0; i < 3; ++i) {
      rig.gate->open();
      rig.advance_ms(1000);
    }
    for (const json& rule : rig.rules()) fired[rule["id"]] = rule["fired"];
  }
};

}  // namespace

TEST_CASE("counters, journal and what callers saw agree, in any sequence", "[fault]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  for (int round = 0; round < 30; ++round) {
    Rng rng(mix(seed, static_cast<uint64_t>(round)));
    History history;
    for (int step = 0; step < 120; ++step) history.step(rng);
    history.finish();
    std::map<std::string, uint64_t> journal;
    uint64_t errors = 0, number = 0, seen = 0;
    for (const json& event : history.rig.events()) {
      CHECK(event["n"] == ++number);
      ++journal[event["rule"]];
      if (!event.contains("phase")) continue;
      ++errors;
      CHECK(event["requested"] == "ENOSPC");
      CHECK(event["delivered"] == "ENOSPC");
    }
    for (const auto& [id, count] : history.fired) CHECK(journal[id] == count);
    for (const auto& io : history.all) {
      CHECK(io->completions == 1);
      CHECK((io->error == 0 || io->error == ENOSPC));
      CHECK((io->error != 0) == !io->injected.rule.empty());
      seen += io->error != 0;
    }
    CHECK(seen == errors);
  }
}

TEST_CASE("the same requests and the same seeds give the same journal", "[fault]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  const auto play = [&] {
    Rig rig;
    Rng rng(seed);
    json rule = error_rule("p");
    rule["when"] = {{"probability", 0.3}, {"seed", "11"}};
    rig.add(rule);
    json nap = delay_rule("d", 3);
    nap["when"] = {{"probability", 0.5}, {"seed", "12"}};
    rig.add(nap);
    for (int i = 0; i < 200; ++i) {
      Io io(Op::read, rng.below(1000) * 512, 512);
      rig.submit(io);
      rig.advance_ms(5);
    }
    return to_line(rig.events());
  };
  CHECK(play() == play());
}

TEST_CASE("the journal is bounded and says what it has dropped", "[fault]") {
  Rig rig({{"fault", {{"journal", "1M"}}}});
  rig.add(error_rule("e"));
  constexpr uint64_t k_many = 20'000;  // about 4 MB
  for (uint64_t i = 0; i < k_many; ++i) {
    Io io(Op::read, 0, 512);
    rig.submit(io);
  }
  const json where = *rig.call({{"op", "fault.journal"}});
  CHECK(where["last"] == k_many);
  CHECK(where["files"].size() == Journal::k_segments);
  const uint64_t dropped = where["dropped"];
  CHECK(dropped > k_many / 2);
  const json events = rig.events();
  REQUIRE(events.size() == k_many - dropped);
  CHECK(events.front()["n"] == dropped + 1);
  CHECK(events.back()["n"] == k_many);
  CHECK(rig.events(k_many - 2).size() == 2);
  CHECK(rig.events(0, 7).size() == 7);
  CHECK(rig.events(UINT64_MAX).empty());
  CHECK(rig.rules()[0]["fired"] == k_many);
}

TEST_CASE("the truth table of what NBD can carry", "[fault]") {
  const std::set<int> codes = {0,      EPERM,     EIO,     ENOMEM,   EINVAL,
                               ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN};
  for (int error = 0; error < 134; ++error)
    for (const Op op : {Op::read, Op::write, Op::flush, Op::discard, Op::zero, Op::map}) {
      CHECK(codes.count(delivered(Front::nbd, op, error)) == 1);
      CHECK(delivered(Front::host, op, error) == error);
      if (codes.count(error) != 0) CHECK(delivered(Front::nbd, op, error) == error);
    }
  CHECK(delivered(Front::nbd, Op::write, EROFS) == EPERM);
  CHECK(delivered(Front::nbd, Op::read, ERANGE) == EINVAL);
  CHECK(delivered(Front::nbd, Op::write, ERANGE) == ENOSPC);
  CHECK(delivered(Front::nbd, Op::read, ETIMEDOUT) == EIO);
}
