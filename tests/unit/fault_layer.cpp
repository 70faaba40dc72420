// SPDX-License-Identifier: MIT
// If this fails, a fault fires at the wrong moment: before its delay is over, after it was cleared,
// or without being told. Time is moved by hand here, so nothing sleeps.
#include <cerrno>

#include "fault_rig.hpp"

using namespace pv;
using namespace pv::blk;
using namespace pv::test;

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

TEST_CASE("clearing a delay lets those go that wait for it, after what others make them wait",
          "[fault]") {
  Rig rig;
  rig.add(delay_rule("s", 50));
  rig.add(delay_rule("t", 20));
  rig.add(error_rule("e", "write"));
  Io io(Op::read, 0, 512);
  rig.submit(io);
  rig.advance_ms(10);
  rig.clear("s");
  rig.advance_ms(9);
  CHECK(io.completions == 0);
  rig.clear("t");
  CHECK(io.completions == 1);
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
  geometry.size = k_rig_size;
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
