// SPDX-License-Identifier: MIT
#include "upstream.hpp"

#include <map>

#include "../catch.hpp"
#include "base/process.hpp"
#include "blk/backend/nbd.hpp"
#include "support.hpp"

namespace pv::test {
namespace {

// A server of somebody else's: qcow2 in qemu-storage-daemon, or nbdkit. Started once for each size,
// because starting it takes longer than most checks.
class Upstream {
 public:
  Upstream(const std::string& kind, uint64_t size) {
    SpawnOptions options;
    const std::string image = dir_.path("t.qcow2");
    if (kind == "nbdkit") {
      options.argv = {"nbdkit", "-f", "-U", socket(), "memory", std::to_string(size)};
    } else {
      const auto made =
          run_program({"qemu-img", "create", "-q", "-f", "qcow2", image, std::to_string(size)},
                      Deadline::in_ms(20'000));
      REQUIRE(made);
      REQUIRE(made->status.code == 0);
      options.argv = {"qemu-storage-daemon",
                      "--blockdev",
                      R"({"driver":"qcow2","node-name":"d","discard":"unmap","file":{)"
                      R"("driver":"file","discard":"unmap","filename":")" +
                          image + "\"}}",
                      "--nbd-server",
                      "addr.type=unix,addr.path=" + socket(),
                      "--export",
                      "type=nbd,id=e,node-name=d,name=,writable=on"};
    }
    auto started = spawn(options);
    REQUIRE(started);
    process_ = std::move(*started);
  }

  std::string socket() const { return dir_.path("s"); }

  // Connected, and all zeroes as a new disk is.
  std::unique_ptr<blk::Disk> open(const blk::Geometry& geometry, Loop& loop) {
    blk::NbdOptions options;
    options.socket = socket();
    options.geometry = geometry;
    options.geometry.read_only = false;
    const Deadline deadline = Deadline::in_ms(20'000);
    auto writable = blk::make_nbd_disk(options, loop);
    while (!writable && !deadline.passed()) {  // it is still starting
      sleep_ns(k_ns_per_ms);
      writable = blk::make_nbd_disk(options, loop);
    }
    REQUIRE(writable);
    Io zero(blk::Op::zero, 0, geometry.size);
    (*writable)->submit(zero.request);
    while (zero.completions == 0 && !deadline.passed()) REQUIRE(loop.run_once(100));
    REQUIRE(zero.error == 0);
    static_cast<void>(loop.run_once(0));
    if (!geometry.read_only) return std::move(*writable);
    options.geometry.read_only = true;
    auto opened = blk::make_nbd_disk(options, loop);
    REQUIRE(opened);
    return std::move(*opened);
  }

 private:
  TempDir dir_;
  Child process_;
};

Upstream& upstream(const std::string& kind, uint64_t size) {
  static std::map<std::pair<std::string, uint64_t>, std::unique_ptr<Upstream>> running;
  auto& found = running[{kind, size}];
  if (!found) found = std::make_unique<Upstream>(kind, size);
  return *found;
}

}  // namespace

std::unique_ptr<blk::Disk> upstream_disk(const std::string& kind, const blk::Geometry& geometry,
                                         Loop& loop) {
  return upstream(kind, geometry.size).open(geometry, loop);
}

}  // namespace pv::test
