// SPDX-License-Identifier: MIT
// A history over a disk in memory that outlives the stacks that stand on it.
#pragma once

#include <algorithm>
#include <memory>
#include <string>

#include "blk/line_journal.hpp"
#include "layer_rig.hpp"

namespace pv::test {

using namespace blk;

constexpr uint64_t k_block = 4096;

// A disk in memory that outlives the stacks that stand on it.
struct HistoryMedium {
  std::unique_ptr<Disk> disk;
  explicit HistoryMedium(const Geometry& geometry) : disk(*make_memory_disk(geometry)) {}
};
struct OverMedium final : Disk {
  Disk& disk;
  explicit OverMedium(Disk& d) : disk(d) {}
  const Geometry& geometry() const override { return disk.geometry(); }
  void submit(Request& request) override { disk.submit(request); }
};

struct HistoryRig {
  TempDir dir;
  HistoryMedium medium;
  ManualClock clock;
  ManualTimers timers{clock};
  std::unique_ptr<Disk> disk;
  std::string keys;

  explicit HistoryRig(Geometry geometry = LayerRig::small(), std::string more = "")
      : medium(geometry), keys(std::move(more)) {
    serve();
  }
  Result<> build() {
    disk.reset();
    std::vector<LayerSpec> specs = {*parse_layer("history:file=" + dir.path("h") + keys),
                                    *parse_layer("fault")};
    TRY_ASSIGN(disk, build_stack(std::make_unique<OverMedium>(*medium.disk), specs,
                                 {clock, timers, nullptr, 0}));
    return {};
  }
  void serve() {
    const auto built = build();
    INFO((built ? "" : built.error().message));
    REQUIRE(built);
  }
  Result<json> call(const json& request) { return disk->control(*parse_json(to_line(request))); }
  int write_to(Disk& target, uint64_t offset, const std::string& bytes) {
    Io io(Op::write, offset, bytes.size());
    std::copy(bytes.begin(), bytes.end(), io.data.begin());
    target.submit(io.request);
    return io.error;
  }
  int write(uint64_t offset, const std::string& bytes) { return write_to(*disk, offset, bytes); }
  int run(Op op, uint64_t offset, uint64_t length) {
    Io io(op, offset, length);
    disk->submit(io.request);
    return io.error;
  }
  std::string read(uint64_t offset, uint64_t length) {
    Io io(Op::read, offset, length);
    disk->submit(io.request);
    return io.error == 0 ? io.bytes() : "error " + std::to_string(io.error);
  }
  json findings() { return *read_journal(*call({{"op", "verify.journal"}}), 0, 1 << 20); }
  std::string damage() {
    const json all = findings();
    return all.empty() ? "none" : all.back()["class"].get<std::string>();
  }
  void fault(json action, const char* op) {
    REQUIRE(
        call({{"op", "fault.add"},
              {"rule", {{"match", {{"op", {op}}}}, {"when", {{"times", 1}}}, {"do", action}}}}));
  }
};

}  // namespace pv::test
