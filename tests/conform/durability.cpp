// SPDX-License-Identifier: MIT
// When data is safe: the record that stands right above the back end must show it stable before a
// flush or a FUA request completes above.
#include <algorithm>

#include <fmt/format.h>

#include "support.hpp"

namespace pv::test {
namespace {

using namespace blk;

// What a FUA change or a flush has promised must be stable below before it completes: written with
// FUA, or flushed after it was written.
void fua_is_durable(Bench& bench, Rng& rng, Wrongs& wrong) {
  const bool same = bench.row().below == Below::same;
  const uint64_t sector = bench.disk().geometry().sector_size;
  if (bench.front() == "host" && !bench.disk().geometry().fua) return;  // nothing was promised
  for (uint64_t i = 0; i < 12; ++i) {
    bench.failing().record();
    const uint64_t offset = rng.below(60) * sector, length = (1 + rng.below(40)) * sector;
    if (bench.write(offset, random_bytes(rng, length), k_fua) != 0)
      wrong.push_back("a FUA write fails");
    if (same && !bench.failing().stable(offset, length))
      wrong.push_back("a FUA write completes before it is stable");
    if (bench.failing().unstable() != 0) wrong.push_back("a FUA write leaves unstable data below");
    for (const Op op : {Op::zero, Op::discard}) {
      Io io(op, offset, length, k_fua);
      expect(bench, io, 0, wrong);
      if (op == Op::zero && same && !bench.failing().stable(offset, length))
        wrong.push_back("a FUA zero completes before it is stable");
      if (bench.failing().unstable() != 0)
        wrong.push_back(fmt::format("a FUA {} leaves unstable data below", op_name(op)));
    }
  }
}

void flush_is_a_barrier(Bench& bench, Rng& rng, Wrongs& wrong) {
  constexpr uint64_t k_writes = 24;
  const uint64_t unit = std::max<uint64_t>(4096, bench.disk().geometry().sector_size);
  const auto write_all_at = [&](uint64_t base, auto& ios) {
    for (uint64_t i = 0; i < k_writes; ++i) {
      ios.push_back(std::make_unique<Io>(Op::write, (base + 2 * i) * unit, unit));
      const std::string bytes = random_bytes(rng, unit);
      std::copy(bytes.begin(), bytes.end(), ios.back()->data.begin());
      bench.disk().submit(ios.back()->request);
    }
  };
  for (const bool alone : {true, false}) {
    bench.failing().record();
    std::vector<std::unique_ptr<Io>> before, during;
    write_all_at(0, before);
    bench.wait(before);
    if (!alone) write_all_at(k_writes * 3, during);
    Io flush(Op::flush, 0, 0);
    expect(bench, flush, 0, wrong);
    if (alone && bench.failing().unstable() != 0)
      wrong.push_back("a flush completes over unstable data below");
    for (const auto& io : before)
      if (bench.row().below == Below::same &&
          !bench.failing().stable(io->request.offset, io->request.length))
        wrong.push_back("a write that had completed is not stable after a flush");
    bench.wait(during);
  }
  if (bench.failing().flushes() == 0 && bench.row().below == Below::same)
    wrong.push_back("no flush has reached the back end");
}

}  // namespace

const std::vector<Check>& durability_checks() {
  static const std::vector<Check> table = {
      {"FUA is durable", fua_is_durable},
      {"a flush is a barrier", flush_is_a_barrier},
  };
  return table;
}

}  // namespace pv::test
