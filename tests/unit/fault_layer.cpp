// SPDX-License-Identifier: MIT
// If this fails, a fault fires at the wrong moment: before its delay is over, after it was cleared,
// or without being told. Time is moved by hand here, so nothing sleeps.
#include <catch2/catch.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "../conform/support.hpp"
#include "base/text.hpp"
#include "blk/backend/memory.hpp"
#include "blk/registry.hpp"
#include "blk/wire.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

namespace {

constexpr uint64_t k_size = 1 << 20;

// Holds what reaches the bottom until it is told to let go.
struct Gate final : Forward {
  using Forward::Forward;
  bool closed = false;
  std::vector<Request*> held;
  void submit(Request& request) override {
    if (closed)
      held.push_back(&request);
    else
      lower().submit(request);
  }
  void open() {
    closed = false;
    for (Request* request : std::exchange(held, {})) lower().submit(*request);
  }
};

struct Rig {
  ManualClock clock;
  ManualTimers timers{clock};
  Gate* gate = nullptr;
  std::unique_ptr<Disk> disk;

  explicit Rig(const std::vector<LayerSpec>& layers = {{"fault", {}}}) {
    Geometry geometry;
    geometry.size = k_size;
    auto bottom = std::make_unique<Gate>(*make_memory_disk(geometry));
    gate = bottom.get();
    auto built = build_stack(std::move(bottom), layers, {clock, timers, nullptr, 0}, true);
    REQUIRE(built);
    disk = std::move(*built);
  }
  ~Rig() {
    gate->open();
    timers.advance_ns(100 * k_ns_per_s);
    gate->open();
  }

  Result<json> call(const json& request) { return disk->control(*parse_json(to_line(request))); }
  void add(const json& rule) {
    const auto reply = call({{"op", "fault.add"}, {"rule", rule}});
    if (!reply) FAIL(reply.error().message);
  }
  void clear(const std::string& id = "") { REQUIRE(call({{"op", "fault.clear"}, {"id", id}})); }
  json rules() { return (*call({{"op", "fault.list"}}))["rules"]; }
  json events() { return (*call({{"op", "fault.journal"}}))["events"]; }
  void submit(Io& io) { disk->submit(io.request); }
  void advance_ms(uint64_t ms) { timers.advance_ns(ms * k_ns_per_ms); }
};

json error_rule(const std::string& id, const char* op = "read", const char* name = "EIO") {
  return {{"id", id}, {"match", {{"op", {op}}}}, {"do", {{"kind", "error"}, {"errno", name}}}};
}
json delay_rule(const std::string& id, double ms) {
  return {{"id", id}, {"do", {{"kind", "delay"}, {"delay_ms", ms}}}};
}

}  // namespace

TEST_CASE("without rules requests pass and nothing is recorded", "[fault]") {
  Rig rig;
  Io io(Op::read, 0, 512);
  rig.submit(io);
  CHECK(io.completions == 1);
  CHECK(io.error == 0);
  CHECK(rig.events().empty());
}

TEST_CASE("a delay lasts exactly as long as it says, several add up", "[fault]") {
  Rig rig;
  rig.add(delay_rule("a", 50));
  rig.add(delay_rule("b", 0.5));
  Io io(Op::read, 0, 512);
  rig.submit(io);
  rig.timers.advance_ns(50'499'999);
  CHECK(io.completions == 0);
  rig.timers.advance_ns(1);
  CHECK(io.completions == 1);
  CHECK(rig.events().size() == 2);
}

TEST_CASE("slow and an error compose: first the delay, then the error, no I/O", "[fault]") {
  Rig rig;
  rig.gate->closed = true;
  rig.add(error_rule("e"));
  rig.add(delay_rule("s", 50));
  Io io(Op::read, 0, 512);
  rig.submit(io);
  rig.advance_ms(49);
  CHECK(io.completions == 0);
  rig.advance_ms(1);
  CHECK(io.error == EIO);
  CHECK(rig.gate->held.empty());
  CHECK(io.injected.rule == "e");
  CHECK(io.injected.phase == Phase::before);
}

TEST_CASE("a fault that is set during the delay takes effect, and says after_delay", "[fault]") {
  Rig rig;
  rig.add(delay_rule("s", 50));
  Io io(Op::write, 0, 512);
  rig.submit(io);
  rig.advance_ms(20);
  rig.add(error_rule("late", "write"));
  rig.advance_ms(30);
  CHECK(io.error == EIO);
  CHECK(io.injected.phase == Phase::after_delay);
  CHECK(rig.events().back()["phase"] == "after_delay");
  CHECK(rig.events().back()["io_done"] == false);
}

TEST_CASE("a fault that is set during the I/O takes effect, and says that the write has happened",
          "[fault]") {
  Rig rig;
  rig.add(delay_rule("s", 50));
  rig.gate->closed = true;
  Io io(Op::write, 0, 512);
  io.data.assign(512, 'w');
  rig.submit(io);
  rig.advance_ms(50);
  REQUIRE(rig.gate->held.size() == 1);
  rig.add(error_rule("late", "write"));
  CHECK(io.completions == 0);
  rig.gate->open();
  CHECK(io.error == EIO);
  CHECK(io.injected.phase == Phase::after_io);
  CHECK(rig.events().back()["io_done"] == true);
  rig.clear();
  Io back(Op::read, 0, 512);
  rig.submit(back);
  CHECK(back.bytes() == std::string(512, 'w'));
}

TEST_CASE("a rule looks at one request once, however often the request is looked at", "[fault]") {
  Rig rig;
  rig.add(delay_rule("s", 50));
  json never = error_rule("n");
  never["when"] = {{"after", 1'000'000}};
  rig.add(never);
  Io io(Op::read, 0, 512);
  rig.submit(io);
  json late = never;
  late["id"] = "late";
  rig.add(late);
  rig.gate->closed = true;
  rig.advance_ms(50);
  json later = never;
  later["id"] = "later";
  rig.add(later);
  rig.gate->open();
  CHECK(io.error == 0);
  for (const json& rule : rig.rules()) CHECK(rule["matched"] == 1);
}

TEST_CASE("clearing during a delay lets the request through", "[fault]") {
  Rig rig;
  rig.add(delay_rule("s", 50));
  rig.add(error_rule("e"));
  Io io(Op::read, 0, 512);
  rig.submit(io);
  rig.advance_ms(10);
  rig.clear();
  rig.advance_ms(39);
  CHECK(io.completions == 0);  // it sleeps on: the delay was decided
  rig.advance_ms(1);
  CHECK(io.error == 0);
}

TEST_CASE("an error of the disk itself is not covered by a fault set meanwhile", "[fault]") {
  struct Bad final : Forward {
    using Forward::Forward;
    void submit(Request& request) override { request.done(request, ENOSPC); }
  };
  ManualClock clock;
  ManualTimers timers(clock);
  Geometry geometry;
  geometry.size = k_size;
  const std::vector<LayerSpec> layers = {{"fault", {}}};
  auto disk = *build_stack(std::make_unique<Bad>(*make_memory_disk(geometry)), layers,
                           {clock, timers, nullptr, 0}, true);
  REQUIRE(disk->control(
      *parse_json(R"({"op":"fault.add","rule":{"match":{"op":["read"]},"do":{"kind":"error"}}})")));
  Io io(Op::write, 0, 512);
  disk->submit(io.request);
  CHECK(io.error == ENOSPC);
  CHECK(io.injected.rule.empty());
}

TEST_CASE("of several errors the first that was added decides", "[fault]") {
  Rig rig;
  json once = error_rule("a", "read", "ENOMEM");
  once["when"] = {{"times", 1}};
  rig.add(once);
  rig.add(error_rule("b", "read", "ENOSPC"));
  for (const int wanted : {ENOMEM, ENOSPC, ENOSPC}) {
    Io io(Op::read, 0, 512);
    rig.submit(io);
    CHECK(io.error == wanted);
  }
}

TEST_CASE("internal requests meet no fault and leave no trace", "[fault]") {
  Rig rig;
  rig.add(error_rule("e"));
  Io io(Op::read, 0, 512, k_internal);
  rig.submit(io);
  CHECK(io.error == 0);
  CHECK(rig.rules()[0]["matched"] == 0);
}

TEST_CASE("faults are a set: the same rule twice is one, another under its name is refused",
          "[fault]") {
  Rig rig;
  rig.add(error_rule("e"));
  Io io(Op::read, 0, 512);
  rig.submit(io);
  rig.add(error_rule("e"));
  CHECK(rig.rules().size() == 1);
  CHECK(rig.rules()[0]["fired"] == 1);
  const auto other = rig.call({{"op", "fault.add"}, {"rule", error_rule("e", "write")}});
  REQUIRE_FALSE(other);
  CHECK(other.error().code == Code::duplicate_name);
  json nameless = error_rule("x");
  nameless.erase("id");
  rig.add(nameless);
  rig.add(nameless);
  CHECK(rig.rules().size() == 3);
  const auto gone = rig.call({{"op", "fault.clear"}, {"id", "nosuch"}});
  REQUIRE_FALSE(gone);
  CHECK(gone.error().code == Code::no_such_rule);
}

TEST_CASE("requests to a disk with two fault layers go to the outer one", "[fault]") {
  Rig rig({{"fault", {}}, {"delay", {{"ms", "5"}}}, {"fault", {}}});
  rig.add(error_rule("e"));
  Io io(Op::read, 0, 512);
  rig.submit(io);
  CHECK(io.error == EIO);
  const auto unknown = rig.call({{"op", "nonsense"}});
  REQUIRE_FALSE(unknown);
  CHECK(unknown.error().code == Code::unsupported);
}

TEST_CASE("the delay layer delays what it was told to, and nothing else", "[blk]") {
  Rig rig({{"delay", {{"ms", "5"}, {"ops", "flush+write"}}}});
  Io read(Op::read, 0, 512), write(Op::write, 0, 512), flush(Op::flush, 0, 0);
  for (Io* io : {&read, &write, &flush}) rig.submit(*io);
  CHECK(read.completions == 1);
  rig.timers.advance_ns(5 * k_ns_per_ms - 1);
  CHECK(write.completions == 0);
  rig.timers.advance_ns(1);
  CHECK(write.completions == 1);
  CHECK(flush.completions == 1);
}

TEST_CASE("counters, journal and what callers saw agree, in any sequence", "[fault]") {
  const uint64_t seed = test_seed();
  SEED_INFO(seed);
  for (int round = 0; round < 30; ++round) {
    Rng rng(mix(seed, static_cast<uint64_t>(round)));
    Rig rig;
    std::vector<std::unique_ptr<Io>> all;
    std::map<std::string, uint64_t> fired;  // of rules that were cleared
    int next = 0;
    for (int step = 0; step < 120; ++step) {
      switch (rng.below(8)) {
        case 0: {
          const bool slow = rng.below(2) == 0;
          json rule = slow ? delay_rule("", static_cast<double>(1 + rng.below(30)))
                           : error_rule("", rng.below(2) ? "read" : "write", "ENOSPC");
          rule["id"] = fmt::format("q{}", next++);
          rule["when"] = {{"after", rng.below(3)},
                          {"every", 1 + rng.below(3)},
                          {"probability", 0.7},
                          {"seed", "5"}};
          if (rng.below(2) == 0) rule["when"]["times"] = 1 + rng.below(5);
          rig.add(rule);
          break;
        }
        case 1: {
          const json rules = rig.rules();
          if (rules.empty()) break;
          const json& victim = rules[rng.below(rules.size())];
          fired[victim["id"]] = victim["fired"];
          rig.clear(victim["id"]);
          break;
        }
        case 2:
          rig.advance_ms(rng.below(20));
          break;
        case 3:
          if (rng.below(2) == 0)
            rig.gate->closed = true;
          else
            rig.gate->open();
          break;
        default: {
          const Op op = rng.below(2) ? Op::read : Op::write;
          all.push_back(std::make_unique<Io>(op, rng.below(100) * 512, 512));
          if (rng.below(2) == 0) all.back()->request.front = Front::nbd;
          rig.submit(*all.back());
        }
      }
    }
    for (int i = 0; i < 3; ++i) {
      rig.gate->open();
      rig.advance_ms(1000);
    }
    for (const json& rule : rig.rules()) fired[rule["id"]] = rule["fired"];
    std::map<std::string, uint64_t> journal;
    uint64_t errors = 0, number = 0;
    for (const json& event : rig.events()) {
      CHECK(event["n"] == ++number);
      ++journal[event["rule"]];
      if (!event.contains("phase")) continue;
      ++errors;
      CHECK(event["requested"] == "ENOSPC");
      CHECK(event["delivered"] == "ENOSPC");
    }
    for (const auto& [id, count] : fired) CHECK(journal[id] == count);
    uint64_t seen = 0;
    for (const auto& io : all) {
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
  Rig rig;
  rig.add(error_rule("e"));
  constexpr uint64_t k_many = (1 << 16) + 100;
  for (uint64_t i = 0; i < k_many; ++i) {
    Request request;
    request.op = Op::read;
    char byte[512];
    const iovec piece{byte, sizeof byte};
    request.length = 512;
    request.data = &piece;
    request.segments = 1;
    request.done = [](Request&, int) {};
    rig.disk->submit(request);
  }
  const json reply = *rig.call({{"op", "fault.journal"}});
  CHECK(reply["last"] == k_many);
  CHECK(reply["dropped"] == 100);
  CHECK(reply["events"].size() == 4096);
  CHECK(reply["events"][0]["n"] == 101);
  const json tail = *rig.call({{"op", "fault.journal"}, {"since", k_many - 2}});
  CHECK(tail["events"].size() == 2);
  CHECK((*rig.call({{"op", "fault.journal"}, {"since", UINT64_MAX}}))["events"].empty());
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
