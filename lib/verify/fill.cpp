// SPDX-License-Identifier: MIT
#include "verify/fill.hpp"

#include <bit>
#include <cstring>

#include <fmt/format.h>

#include "verify/in_order.hpp"

namespace pv::verify {
namespace {

constexpr uint64_t k_batch = 1 << 20;        // bytes of neighbouring blocks
constexpr uint64_t k_batches_a_second = 10;  // at least, where there is a rate
constexpr uint32_t k_max_block = 1 << 20;

struct Batch {
  uint64_t first = 0;  // block
  uint64_t count = 0;
  uint64_t done = 0;  // blocks of the disk that are then behind us
};

Selection selection_of(const FillOptions& options, uint64_t size) {
  Selection selection;
  selection.blocks = size / options.id.size;
  selection.seed = options.id.seed;
  if (options.fraction < 1) selection.threshold = static_cast<uint64_t>(options.fraction * 0x1p64);
  return selection;
}

// Gives out the blocks of a filling in its order and at its rate.
class Batches {
 public:
  Batches(const FillOptions& options, uint64_t size)
      : options_(options),
        selection_(selection_of(options, size)),
        limit_(std::max<uint64_t>(1, batch_bytes(options) / options.id.size)),
        start_ns_(system_clock().now_ns()) {}

  Result<bool> next(Batch& batch) {
    while (at_ < selection_.blocks && !selection_.has(block())) ++at_;
    if (at_ == selection_.blocks) return false;
    batch.first = block();
    batch.count = 1;
    ++at_;
    while (!options_.random && at_ < selection_.blocks && batch.count < limit_ &&
           selection_.has(at_)) {
      ++batch.count;
      ++at_;
    }
    batch.done = at_;
    wait();
    if (options_.deadline.passed()) return fail(Code::timeout, "it was not done in time");
    given_ += batch.count * options_.id.size;
    return true;
  }

 private:
  static uint64_t batch_bytes(const FillOptions& options) {
    if (options.rate == 0) return k_batch;
    return std::min<uint64_t>(k_batch, options.rate / k_batches_a_second);
  }

  uint64_t block() const { return options_.random ? selection_.shuffled(at_) : at_; }

  // Until what has been given out so far may be done with.
  void wait() const {
    if (options_.rate == 0) return;
    const double due_s = static_cast<double>(given_) / static_cast<double>(options_.rate);
    const uint64_t due_ns = start_ns_ + static_cast<uint64_t>(due_s * k_ns_per_s);
    const uint64_t now = system_clock().now_ns();
    if (due_ns > now) sleep_ns(std::min(due_ns - now, options_.deadline.left_ns()));
  }

  const FillOptions& options_;
  Selection selection_;
  uint64_t limit_;  // blocks of a batch
  uint64_t start_ns_;
  uint64_t at_ = 0;     // in the order
  uint64_t given_ = 0;  // bytes
};

// What a thread works with.
struct Space {
  explicit Space(size_t length) : wanted(length), found(length) {}
  Buffer wanted, found;
};

std::vector<Space> spaces_for(const FillOptions& options) {
  std::vector<Space> spaces;
  for (unsigned job = 0; job < options.jobs; ++job)
    spaces.emplace_back(std::max<uint64_t>(k_batch, options.id.size));
  return spaces;
}

// Writes the blocks of a batch, or those that differ from what is there.
Result<uint64_t> write_batch(Image& image, const FillOptions& options, const Batch& batch,
                             Space& space) {
  const uint64_t size = options.id.size, offset = batch.first * size;
  char* wanted = space.wanted.data();
  for (uint64_t i = 0; i < batch.count; ++i)
    make_block(options.id, offset + i * size, wanted + i * size);
  if (!options.resume) {
    TRY(image.write(offset, wanted, batch.count * size));
    return batch.count;
  }
  TRY(image.read(offset, space.found.data(), batch.count * size));
  uint64_t written = 0;
  for (uint64_t i = 0; i < batch.count; ++i) {
    if (std::memcmp(wanted + i * size, space.found.data() + i * size, size) == 0) continue;
    TRY(image.write(offset + i * size, wanted + i * size, size));
    ++written;
  }
  return written;
}

struct Bad {
  uint64_t offset;
  BlockReport report;
};

Result<> check_batch(Image& image, const FillOptions& options, const Batch& batch, Space& space,
                     std::vector<Bad>& out) {
  const uint64_t size = options.id.size, offset = batch.first * size;
  out.clear();
  TRY(image.read(offset, space.found.data(), batch.count * size));
  for (uint64_t i = 0; i < batch.count; ++i) {
    const uint64_t at = offset + i * size;
    const char* found = space.found.data() + i * size;
    make_block(options.id, at, space.wanted.data());
    if (std::memcmp(found, space.wanted.data(), size) == 0) continue;
    out.push_back({at, examine(options.id, at, {found, size})});
  }
  return {};
}

}  // namespace

Result<> check_options(const FillOptions& options) {
  const uint32_t size = options.id.size;
  if (size < k_unit || size > k_max_block || !std::has_single_bit(size))
    return fail(Code::usage, fmt::format("a block is a power of two of {} to {} bytes, not {}",
                                         k_unit, k_max_block, size));
  if (options.id.generation == 0)
    return fail(Code::usage, "generations begin with 1: before the first one there are zeroes");
  if (!(options.fraction > 0 && options.fraction <= 1))
    return fail(Code::usage, "a fraction is more than 0 and at most 1");
  return {};
}

// A filling of nothing would be found good, whatever the disk is.
static Result<> check_size(const Image& image, const FillOptions& options) {
  TRY(check_options(options));
  if (image.size() >= options.id.size) return {};
  return fail(Code::invalid, fmt::format("the disk has {} bytes, less than a block of {}",
                                         image.size(), options.id.size));
}

Result<FillTotals> fill(Image& image, const FillOptions& options) {
  TRY(check_size(image, options));
  if (image.read_only()) return fail(Code::read_only, "the disk can only be read");
  Batches batches(options, image.size());
  std::vector<Space> spaces = spaces_for(options);
  FillTotals totals;
  InOrder<Batch, uint64_t> order;
  order.next = [&](Batch& batch) { return batches.next(batch); };
  order.work = [&](unsigned job, const Batch& batch, uint64_t& written) -> Result<> {
    TRY_ASSIGN(written, write_batch(image, options, batch, spaces[job]));
    return {};
  };
  order.emit = [&](const Batch& batch, uint64_t& written) -> Result<> {
    totals.blocks += batch.count;
    totals.written += written;
    totals.kept += batch.count - written;
    options.progress(batch.done * options.id.size);
    return {};
  };
  TRY(order.run(options.jobs, options.deadline));
  TRY(image.flush());
  return totals;
}

Result<CheckTotals> check(Image& image, const FillOptions& options, const BadBlock& bad) {
  TRY(check_size(image, options));
  Batches batches(options, image.size());
  std::vector<Space> spaces = spaces_for(options);
  CheckTotals totals;
  InOrder<Batch, std::vector<Bad>> order;
  order.next = [&](Batch& batch) { return batches.next(batch); };
  order.work = [&](unsigned job, const Batch& batch, std::vector<Bad>& out) {
    return check_batch(image, options, batch, spaces[job], out);
  };
  order.weight = [](const std::vector<Bad>& out) { return out.capacity() * sizeof(Bad); };
  order.emit = [&](const Batch& batch, std::vector<Bad>& found) -> Result<> {
    totals.blocks += batch.count;
    for (const Bad& one : found) {
      ++totals.bad;
      ++totals.by_damage[static_cast<size_t>(one.report.verdict.damage)];
      TRY(bad(one.offset, one.report));
    }
    options.progress(batch.done * options.id.size);
    return {};
  };
  TRY(order.run(options.jobs, options.deadline));
  TRY(image.unchanged());
  return totals;
}

}  // namespace pv::verify
