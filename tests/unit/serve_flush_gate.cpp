// SPDX-License-Identifier: MIT
// If this fails, taking a snapshot empties a volatile cache or is seen by fault rules, or a flush
// of the guest's is lost.
#include <algorithm>
#include <cerrno>

#include "layer_rig.hpp"
#include "serve/flush_gate.hpp"

namespace {

using namespace pv;
using namespace pv::test;
using serve::FlushGate;

struct GateRig : LayerRig {
  explicit GateRig(const std::vector<std::string>& layers) : LayerRig(layers) {}
  FlushGate gate{*disk};
  int send(Op op, uint64_t offset = 0, char fill = 'w') {
    Io io(op, offset, op == Op::flush ? 0 : 4096);
    std::fill(io.data.begin(), io.data.end(), fill);
    gate.submit(io.request);
    return io.completions == 1 ? io.error : -1;
  }
  uint64_t held() { return shown()["cache"]["held_bytes"].get<uint64_t>(); }
};

TEST_CASE("without a window every flush passes", "[snapshot]") {
  GateRig rig({"cache"});
  CHECK(rig.send(Op::write) == 0);
  CHECK(rig.send(Op::flush) == 0);
  CHECK(rig.held() == 0);
  CHECK(rig.gate.flushes() == 1);
  CHECK_FALSE(rig.gate.pending());
}

TEST_CASE("in the window a flush that would empty the cache is remembered", "[snapshot]") {
  GateRig rig({"cache"});
  rig.send(Op::write);
  rig.gate.hold();
  CHECK(rig.send(Op::flush) == 0);
  CHECK(rig.held() == 4096);
  CHECK(rig.gate.pending());
  SECTION("and forgotten when it was not the guest's") {
    rig.gate.forget();
    rig.gate.let_go();
    CHECK(rig.held() == 4096);
  }
  SECTION("and carried out when it was") {
    rig.gate.carry_out();
    CHECK(rig.held() == 0);
    CHECK(rig.below->count(Op::flush) == 1);
  }
  SECTION("and carried out when the window ends without a word") {
    rig.gate.let_go();
    CHECK(rig.held() == 0);
  }
  SECTION("and carried out before the next change") {
    CHECK(rig.send(Op::write, 8192) == 0);
    CHECK(rig.below->content(0, 4096) == std::string(4096, 'w'));
    CHECK(rig.held() == 4096);  // the younger one
    CHECK_FALSE(rig.gate.pending());
  }
  SECTION("a read leaves it alone") {
    CHECK(rig.send(Op::read) == 0);
    CHECK(rig.held() == 4096);
  }
  CHECK(rig.gate.flushes() == 1);
}

TEST_CASE("a flush that comes by vhost-user is the guest's, and is carried out", "[snapshot]") {
  GateRig rig({"cache"});
  rig.send(Op::write);
  rig.gate.hold();
  Io io(Op::flush, 0, 0);
  io.request.front = blk::Front::vhost;
  rig.gate.submit(io.request);
  CHECK((io.completions == 1 && io.error == 0));
  CHECK(rig.held() == 0);
  CHECK(rig.below->count(Op::flush) == 1);
  CHECK(rig.gate.flushes() == 0);
  CHECK_FALSE(rig.gate.pending());
}

TEST_CASE("changes wait for a flush that takes its time", "[snapshot]") {
  GateRig rig({"cache"});
  rig.send(Op::write);
  rig.gate.hold();
  rig.send(Op::flush);
  rig.below->closed = true;
  Io one(Op::write, 8192, 4096), two(Op::discard, 0, 4096);
  rig.gate.submit(one.request);
  rig.gate.submit(two.request);
  CHECK(rig.gate.busy());
  CHECK((one.completions == 0 && two.completions == 0));
  CHECK(rig.below->count(Op::discard) == 0);
  rig.below->open();
  CHECK((one.completions == 1 && two.completions == 1));
  CHECK_FALSE(rig.gate.busy());
  CHECK(rig.below->content(0, 4096) == std::string(4096, '\0'));
}

TEST_CASE("rules that are about flushes do not see one of the window", "[snapshot]") {
  GateRig rig({"fault"});
  const auto add = [&](const char* op) {
    REQUIRE(rig.call({{"op", "fault.add"},
                      {"rule",
                       {{"id", op},
                        {"match", {{"op", {op}}}},
                        {"do", {{"kind", "error"}, {"errno", "EIO"}}}}}}));
  };
  add("read");
  rig.gate.hold();
  CHECK(rig.send(Op::flush) == 0);
  CHECK_FALSE(rig.gate.pending());
  CHECK(rig.below->count(Op::flush) == 1);
  add("flush");
  CHECK(rig.send(Op::flush) == 0);
  CHECK(rig.gate.pending());
  const auto matched = [&] {
    return (*rig.call({{"op", "fault.list"}}))["rules"][1]["matched"].get<int>();
  };
  CHECK(matched() == 0);
  rig.gate.let_go();
  CHECK(matched() == 1);
  CHECK(rig.gate.last_error() == EIO);
  CHECK(rig.send(Op::flush) == EIO);
}

}  // namespace
