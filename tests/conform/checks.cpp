// SPDX-License-Identifier: MIT
// What every disk must do, whatever it is made of. Each check starts with a disk of zeroes.
#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "support.hpp"

namespace pv::test {
namespace {

using namespace blk;

constexpr Op k_addressed[] = {Op::read, Op::write, Op::zero, Op::discard, Op::map, Op::cache};

std::string describe(const Io& io) {
  return fmt::format("{} at {} of {} bytes", op_name(io.request.op), io.request.offset,
                     io.request.length);
}

void expect_content(Bench& bench, const std::string& wanted, const char* when, Wrongs& wrong) {
  if (bench.read(0, wanted.size()) != wanted)
    wrong.push_back(fmt::format("content differs {}", when));
}

std::string fill(Bench& bench, Rng& rng, Wrongs& wrong) {
  std::string content = random_bytes(rng, bench.disk().geometry().size);
  if (bench.write(0, content) != 0) wrong.emplace_back("the disk cannot be filled");
  return content;
}

void awkward_ranges(Bench& bench, Rng& rng, Wrongs& wrong) {
  const uint64_t size = bench.disk().geometry().size;
  const uint64_t sector = bench.disk().geometry().sector_size;
  const uint64_t huge = UINT64_MAX & ~(sector - 1);
  const std::string content = fill(bench, rng, wrong);
  const std::pair<uint64_t, uint64_t> past_the_end[] = {
      {size, sector},
      {size - sector, 2 * sector},
      {size + sector, sector},
      {huge, sector},
      {0, huge},
      {size - sector, huge},
      {1ULL << 63, sector},
      {UINT64_MAX / sector + 1, sector},  // times the sector size: a wrap to 0
      {(UINT64_MAX / sector + 1) * (sector / 2), sector},
      {UINT64_MAX, 1},
      {size + sector, 0},
      {0, size + sector},
      {huge, huge},
      {sector, UINT64_MAX - sector + 1}};
  for (const Op op : k_addressed) {
    for (const auto& [offset, length] : past_the_end) {
      Io io(op, offset, length);
      expect(bench, io, ERANGE, wrong);
    }
    Io at_end(op, size, 0);
    expect(bench, at_end, 0, wrong);
  }
  expect_content(bench, content, "after requests past the end", wrong);
}

void edge_sectors(Bench& bench, Rng& rng, Wrongs& wrong) {
  const uint64_t size = bench.disk().geometry().size;
  const uint64_t sector = bench.disk().geometry().sector_size;
  std::string content = fill(bench, rng, wrong);
  for (const uint64_t offset : {uint64_t{0}, size - sector}) {
    Io io(Op::read, offset, sector);
    expect(bench, io, 0, wrong);
    if (io.bytes() != content.substr(offset, sector)) wrong.push_back("edge sector differs");
    const std::string bytes = random_bytes(rng, sector);
    if (bench.write(offset, bytes) != 0) wrong.push_back("an edge sector cannot be written");
    content.replace(offset, sector, bytes);
    expect_content(bench, content, "after a write at an edge", wrong);
    Io zero(Op::zero, offset, sector);
    expect(bench, zero, 0, wrong);
    content.replace(offset, sector, sector, '\0');
    expect_content(bench, content, "after zero at an edge", wrong);
    if (bench.write(offset, bytes) != 0) wrong.push_back("an edge sector cannot be written");
    Io discard(Op::discard, offset, sector);
    expect(bench, discard, 0, wrong);
    content.replace(offset, sector, bench.read(offset, sector));
    expect_content(bench, content, "beside a discard at an edge", wrong);
  }
}

void alignment(Bench& bench, Rng& rng, Wrongs& wrong) {
  const uint64_t s = bench.disk().geometry().sector_size;
  const std::string content = fill(bench, rng, wrong);
  const std::pair<uint64_t, uint64_t> ragged[] = {
      {1, s}, {0, s - 1}, {s, s + 1}, {s - 1, 1}, {s / 2, s / 2}};
  for (const Op op : k_addressed)
    for (const auto& [offset, length] : ragged) {
      if (offset + length > content.size()) continue;
      Io io(op, offset, length);
      expect(bench, io, EINVAL, wrong);
    }
  expect_content(bench, content, "after misaligned requests", wrong);
}

void wrong_segments(Bench& bench, Rng& rng, Wrongs& wrong) {
  const std::string content = fill(bench, rng, wrong);
  const size_t s = bench.disk().geometry().sector_size;
  for (const Op op : {Op::read, Op::write})
    for (const size_t piece : {size_t{0}, s, 4 * s}) {
      Io io(op, s, 2 * s);
      std::vector<char> buffer(4 * s, 'x');
      const iovec lie{buffer.data(), piece};
      io.request.data = &lie;
      io.request.segments = 1;
      expect(bench, io, EINVAL, wrong);
    }
  Io no_list(Op::map, 0, s);
  no_list.request.extents = nullptr;
  expect(bench, no_list, EINVAL, wrong);
  expect_content(bench, content, "after requests with wrong segments", wrong);
}

void scatter_gather(Bench& bench, Rng& rng, Wrongs& wrong) {
  const std::vector<std::vector<size_t>> shapes = {{},           {1},
                                                   {1, 1, 1},    {511, 2},
                                                   {0, 512},     {512, 0, 0, 512},
                                                   {4096, 4096}, {3, 4090, 7, 0, 4096}};
  for (const auto& shape : shapes)
    for (const auto& back : shapes) {
      const std::string bytes = random_bytes(rng, 16384);
      const uint64_t at = uint64_t{129} * bench.disk().geometry().sector_size;
      Io out(Op::write, at, bytes.size());
      std::copy(bytes.begin(), bytes.end(), out.data.begin());
      out.split_into(shape);
      expect(bench, out, 0, wrong);
      Io in(Op::read, at, bytes.size());
      in.split_into(back);
      expect(bench, in, 0, wrong);
      if (in.bytes() != bytes) wrong.push_back("scattered data differs");
    }
}

void zero_length(Bench& bench, Rng& rng, Wrongs& wrong) {
  const std::string content = fill(bench, rng, wrong);
  for (const Op op : k_addressed)
    for (const uint64_t offset : {uint64_t{0}, uint64_t{bench.disk().geometry().sector_size},
                                  bench.disk().geometry().size}) {
      Io io(op, offset, 0);
      expect(bench, io, 0, wrong);
      if (!io.extents.empty()) wrong.push_back("an extent of nothing");
    }
  expect_content(bench, content, "after requests of nothing", wrong);
}

void read_back(Bench& bench, Rng& rng, Wrongs& wrong) {
  std::string model(bench.disk().geometry().size, '\0');
  expect_content(bench, model, "before the first write", wrong);
  const uint64_t sector = bench.disk().geometry().sector_size;
  const uint64_t sectors = model.size() / sector;
  for (int i = 0; i < 40; ++i) {
    const uint64_t first = rng.below(sectors),
                   count = 1 + rng.below(std::min<uint64_t>(150'000 / sector, sectors - first));
    const std::string bytes = random_bytes(rng, count * sector);
    if (bench.write(first * sector, bytes, rng.below(4) == 0 ? k_fua : 0U) != 0)
      wrong.push_back("a write fails");
    model.replace(first * sector, bytes.size(), bytes);
  }
  expect_content(bench, model, "after writes", wrong);
}

void discard_and_zero(Bench& bench, Rng& rng, Wrongs& wrong) {
  std::string content = fill(bench, rng, wrong);
  const size_t s = bench.disk().geometry().sector_size;
  const DiscardBehaviour behaviour = bench.disk().geometry().discard;
  for (const uint32_t flags :
       {0U, uint32_t{k_no_unmap}, uint32_t{k_fua}, uint32_t{k_fua | k_no_unmap}})
    for (const auto& [offset, length] :
         {std::pair{s, s}, {65'536, 131'072}, {65'536 - s, 2 * s}, {98 * s, 17 * s}}) {
      Io io(Op::zero, offset, length, flags);
      expect(bench, io, 0, wrong);
      content.replace(offset, length, length, '\0');
      expect_content(bench, content, "after zero", wrong);
      if (bench.write(0, content = random_bytes(rng, content.size())) != 0)
        wrong.push_back("a write fails");
    }
  for (const auto& [at, n] : {std::pair{s, s}, {65'536, 65'536}, {0, 73 * s}}) {
    Io io(Op::discard, at, n);
    expect(bench, io, 0, wrong);
    const std::string now = bench.read(0, content.size());
    const bool zeroed = now.substr(at, n) == std::string(n, '\0');
    if (behaviour == DiscardBehaviour::zeroes && !zeroed)
      wrong.push_back("a discarded range does not read as zeroes");
    if (behaviour == DiscardBehaviour::ignored && now != content)
      wrong.push_back("an ignored discard changes data");
    content.replace(at, n, now.substr(at, n));
    if (now != content) wrong.push_back("a discard changes its neighbours");
  }
}

// Maps the whole disk, in as many requests as it takes.
std::vector<Extent> map_all(Bench& bench, uint32_t flags, Wrongs& wrong) {
  std::vector<Extent> all;
  const uint64_t size = bench.disk().geometry().size;
  for (uint64_t at = 0; at < size;) {
    Io io(Op::map, at, size - at, flags);
    expect(bench, io, 0, wrong);
    if ((flags & k_one) != 0 && io.extents.size() != 1) wrong.push_back("more than the one extent");
    uint64_t covered = 0;
    for (const Extent& extent : io.extents) covered += extent.length;
    if (covered == 0 || covered > size - at) {
      wrong.push_back("a map that does not fit its request");
      break;
    }
    all.insert(all.end(), io.extents.begin(), io.extents.end());
    at += covered;
  }
  return all;
}

void map_is_truthful(Bench& bench, Rng& rng, Wrongs& wrong) {
  const size_t sector = bench.disk().geometry().sector_size;
  std::string model(bench.disk().geometry().size, '\0');
  for (const uint64_t offset :
       {uint64_t{131'072}, uint64_t{524'288}, uint64_t{model.size() - sector}}) {
    const std::string bytes = random_bytes(rng, sector);
    if (bench.write(offset, bytes) != 0) wrong.push_back("a write fails");
    model.replace(offset, bytes.size(), bytes);
  }
  Io io(Op::discard, 524'288, 65'536);
  expect(bench, io, 0, wrong);
  model = bench.read(0, model.size());
  for (const uint32_t flags : {0U, uint32_t{k_one}}) {
    uint64_t at = 0;
    for (const Extent& extent : map_all(bench, flags, wrong)) {
      const bool zero = model.compare(at, extent.length, std::string(extent.length, '\0')) == 0;
      if ((extent.flags & (k_zero | k_hole)) != 0 && !zero)
        wrong.push_back("data is called a hole");
      at += extent.length;
    }
    if (at != model.size()) wrong.push_back("the map does not cover the disk");
  }
}

void flush_and_fua(Bench& bench, Rng& rng, Wrongs& wrong) {
  for (const Op op : {Op::write, Op::zero, Op::discard}) {
    Io io(op, 4096, 4096, k_fua);
    expect(bench, io, 0, wrong);
  }
  const std::string bytes = random_bytes(rng, 4096);
  if (bench.write(8192, bytes, k_fua) != 0) wrong.push_back("a FUA write fails");
  for (int i = 0; i < 3; ++i) {
    Io flush(Op::flush, 0, 0);
    expect(bench, flush, 0, wrong);
  }
  // A flush has no address: what stands there does not matter.
  Io odd(Op::flush, UINT64_MAX, 7);
  expect(bench, odd, 0, wrong);
  if (bench.read(8192, 4096) != bytes) wrong.push_back("a FUA write is not there");
}

void many_in_flight(Bench& bench, Rng& rng, Wrongs& wrong) {
  constexpr size_t k_requests = 200, k_length = 4096;
  std::vector<std::unique_ptr<Io>> writes, reads;
  for (size_t i = 0; i < k_requests; ++i) {
    writes.push_back(std::make_unique<Io>(Op::write, i * k_length, k_length));
    const std::string bytes = random_bytes(rng, k_length);
    std::copy(bytes.begin(), bytes.end(), writes.back()->data.begin());
    bench.disk().submit(writes.back()->request);
  }
  bench.wait(writes);
  std::vector<std::unique_ptr<Io>> flushes;
  for (size_t i = 0; i < k_requests; ++i) {
    reads.push_back(std::make_unique<Io>(Op::read, i * k_length, k_length));
    bench.disk().submit(reads.back()->request);
    if (i % 16 != 0) continue;
    flushes.push_back(std::make_unique<Io>(Op::flush, 0, 0));
    bench.disk().submit(flushes.back()->request);
  }
  bench.wait(reads);
  bench.wait(flushes);
  bench.settle();
  for (size_t i = 0; i < k_requests; ++i) {
    if (writes[i]->error != 0 || reads[i]->error != 0)
      wrong.push_back("a request in the crowd fails");
    if (writes[i]->data != reads[i]->data) wrong.push_back("data is mixed up in the crowd");
    if (writes[i]->completions != 1 || reads[i]->completions != 1)
      wrong.push_back("not completed once");
  }
}

// Only what is not ours yet is read from the back end.
void errors_of_a_base(Bench& bench, Wrongs& wrong) {
  uint64_t at = 4096;
  for (const int error : {EIO, ENOMEM, ETIMEDOUT, EHWPOISON}) {
    bench.failing().op = Op::read;
    bench.failing().error = error;
    Io read(Op::read, at += 131'072, 4096), part(Op::write, at + 512, 512);
    expect(bench, read, error, wrong);
    if (bench.disk().geometry().sector_size == 512) expect(bench, part, error, wrong);
    bench.failing().op = Op::map;
    Io map(Op::map, 4096, 4096);
    expect(bench, map, error, wrong);
  }
  for (const Op op : {Op::write, Op::zero, Op::discard, Op::flush}) {
    bench.failing().op = op;
    Io io(op, 0, op == Op::flush ? 0 : bench.disk().geometry().size);
    expect(bench, io, 0, wrong);
  }
}

void errors_pass_unchanged(Bench& bench, Rng& rng, Wrongs& wrong) {
  if (bench.row().below == Below::never) return errors_of_a_base(bench, wrong);
  std::string content = fill(bench, rng, wrong);
  const std::vector<Op>& decoupled = bench.row().decoupled;
  for (const Op op : {Op::read, Op::write, Op::zero, Op::discard, Op::map, Op::flush})
    for (const int error : {EIO, ENOSPC, EROFS, ERANGE, EINVAL, ENOMEM, ETIMEDOUT, EHWPOISON}) {
      bench.failing().op = op;
      bench.failing().error = error;
      Io io(op, op == Op::flush ? 0 : 4096, op == Op::flush ? 0 : 4096);
      if (!bench.carries(io.request)) continue;
      if (std::count(decoupled.begin(), decoupled.end(), op) == 0) {
        expect(bench, io, error, wrong);
        continue;
      }
      if (const int got = bench.run(io); got != 0 && got != bench.seen(op, error))
        wrong.push_back(fmt::format("{}: {} instead of 0 or {}", describe(io), got, error));
      bench.failing().error = 0;
      content.replace(4096, 4096, bench.read(4096, 4096));
    }
  bench.failing().error = 0;
  expect_content(bench, content, "after failed requests", wrong);
}

void submits_from_completions(Bench& bench, Rng&, Wrongs& wrong) {
  // The next request is submitted from inside the completion of the last.
  struct Chain : Io {
    Bench& bench;
    int left = 300;
    explicit Chain(Bench& b) : Io(Op::read, 0, b.disk().geometry().sector_size), bench(b) {
      request.done = [](Request& done, int error) {
        auto& chain = *static_cast<Chain*>(static_cast<Io*>(done.owner));
        if (error == 0 && --chain.left > 0) return chain.bench.disk().submit(done);
        ++chain.completions;
        chain.error = error;
      };
    }
  } chain(bench);
  if (bench.run(chain) != 0 || chain.left != 0) wrong.push_back("a chain of requests breaks");
}

}  // namespace

void expect(Bench& bench, Io& io, int wanted, Wrongs& wrong) {
  if (!bench.carries(io.request)) return;
  wanted = bench.seen(io.request.op, wanted);
  const int got = bench.run(io);
  if (got != wanted)
    wrong.push_back(fmt::format("{}: {} instead of {}", describe(io), got, wanted));
  if (io.completions != 1)
    wrong.push_back(fmt::format("{}: completed {} times", describe(io), io.completions));
}

const std::vector<Check>& checks() {
  static const std::vector<Check> table = [] {
    std::vector<Check> all = {
        {"awkward ranges", awkward_ranges},
        {"edge sectors", edge_sectors},
        {"alignment", alignment},
        {"wrong segments", wrong_segments, Check::host_only},
        {"scatter and gather", scatter_gather},
        {"zero length", zero_length, Check::host_only},
        {"read back", read_back},
        {"discard and zero", discard_and_zero},
        {"the map is truthful", map_is_truthful, Check::not_vhost},
        {"flush and FUA", flush_and_fua},
        {"many in flight", many_in_flight},
        {"errors pass unchanged", errors_pass_unchanged},
        {"submits from completions", submits_from_completions},
    };
    all.insert(all.end(), durability_checks().begin(), durability_checks().end());
    return all;
  }();
  return table;
}

}  // namespace pv::test
