// SPDX-License-Identifier: MIT
// A mirror of two disks in memory, with a fault layer on the leg under test and, where a test wants
// it, completions that come back in any order.
#pragma once

#include <algorithm>

#include "blk/line_journal.hpp"
#include "layer_rig.hpp"

namespace pv::test {

// A leg whose completions are kept until somebody picks one.
struct Slow final : Forward {
  using Forward::Forward;
  std::vector<std::pair<Request*, int>> done;
  struct Flight {
    Request child;
    Request* parent = nullptr;
    Slow* slow = nullptr;
  };
  Pool<Flight> flights;
  bool slow = false;
  int error = 0;
  uint32_t failing = ~0U;  // the operations that end with it, as bits
  // A request reaches the medium when it is picked, so that two may change places.
  std::vector<Request*> waiting;
  void submit(Request& request) override {
    if (slow) return waiting.push_back(&request);
    pass(request);
  }
  void pass(Request& request) {
    if (error != 0 && (op_bit(request.op) & failing) != 0) return request.done(request, error);
    lower().submit(request);
  }
  void pick(size_t i) {
    Request* request = waiting[i];
    waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(i));
    pass(*request);
  }
};

struct MirrorRig : Opener {
  ManualClock clock;
  ManualTimers timers{clock};
  Slow* test = nullptr;
  Slow* reference = nullptr;
  std::unique_ptr<Slow> other;
  std::unique_ptr<Disk> disk;
  int events = 0;

  explicit MirrorRig(const std::string& keys = "", Geometry geometry = LayerRig::small(),
                     bool with_fault = true, const std::string& inner = "") {
    auto bottom = std::make_unique<Slow>(*make_memory_disk(geometry));
    other = std::make_unique<Slow>(*make_memory_disk(geometry));
    test = bottom.get();
    reference = other.get();
    std::vector<LayerSpec> specs = {*parse_layer("mirror:with=b" + keys)};
    if (with_fault) specs.push_back(*parse_layer("fault"));
    if (!inner.empty()) specs.push_back(*parse_layer(inner));
    auto built = build_stack(std::move(bottom), specs,
                             {clock, timers, nullptr, 0, this, {}, [this] { ++events; }});
    INFO((built ? "" : built.error().message));
    REQUIRE(built);
    disk = std::move(*built);
  }
  Result<std::unique_ptr<Disk>> image(const std::string&, bool, const std::string&) override {
    return std::move(other);
  }
  Result<AsyncIo*> async_io() override { return fail(Code::bug, "none"); }

  Result<json> call(const json& request) { return disk->control(*parse_json(to_line(request))); }
  int run(Io& io) {
    disk->submit(io.request);
    return io.completions == 1 ? io.error : -1;
  }
  int write(uint64_t offset, const std::string& bytes) {
    Io io(Op::write, offset, bytes.size());
    std::copy(bytes.begin(), bytes.end(), io.data.begin());
    return run(io);
  }
  int write_to(Disk& leg, uint64_t offset, const std::string& bytes) {
    Io io(Op::write, offset, bytes.size());
    std::copy(bytes.begin(), bytes.end(), io.data.begin());
    leg.submit(io.request);
    return io.error;
  }
  std::string read(uint64_t offset, uint64_t length) {
    Io io(Op::read, offset, length);
    const int error = run(io);
    return error == 0 ? io.bytes() : "error " + std::to_string(error);
  }
  json findings() {
    const auto where = call({{"op", "verify.journal"}});
    REQUIRE(where);
    return *read_journal(*where, 0, 1 << 20);
  }
  json last() {
    const auto where = call({{"op", "verify.journal"}});
    REQUIRE((*where)["last"] != 0);
    return read_journal(*where, (*where)["last"].get<uint64_t>() - 1, 1)->back();
  }
  // All findings after the n-th.
  std::vector<json> after(uint64_t n) {
    const auto where = call({{"op", "verify.journal"}});
    REQUIRE(where);
    return *read_journal(*where, n, SIZE_MAX);
  }
  json status() { return (*call({{"op", "verify.status"}}))["verify"]; }
  void fault(const json& rule) {
    const auto added = call({{"op", "fault.add"}, {"rule", rule}});
    INFO((added ? "" : added.error().message));
    REQUIRE(added);
  }
};

}  // namespace pv::test
