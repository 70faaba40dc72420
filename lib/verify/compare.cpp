// SPDX-License-Identifier: MIT
#include "verify/compare.hpp"

#include <cstring>

#include "verify/in_order.hpp"

namespace pv::verify {
namespace {

constexpr uint64_t k_task = 1 << 20;
constexpr size_t k_zeroes_length = 1 << 20;  // the longest read
constexpr size_t k_max_pieces = 256;         // of a task, when the data is scattered
constexpr uint64_t k_map_step = 1ULL << 30;
constexpr char k_zeroes[k_zeroes_length] = {};

struct Piece {
  uint64_t offset = 0;
  uint64_t length = 0;
  bool read_a = false;
  bool read_b = false;
};
using Task = std::vector<Piece>;

// Walks along one image and says for each stretch whether it has to be read.
class Walk {
 public:
  explicit Walk(Image& image) : image_(image) {}

  // From `offset`, which never goes back: how far what holds there reaches, at most to `end`.
  Result<uint64_t> until(uint64_t offset, uint64_t end, bool& data) {
    if (offset >= image_.size()) {
      data = false;
      return end;
    }
    while (next_ != extents_.size() && at_ + extents_[next_].length <= offset)
      at_ += extents_[next_++].length;
    if (next_ == extents_.size()) {
      extents_.clear();
      next_ = 0;
      at_ = offset;
      TRY(image_.map(offset, std::min(k_map_step, image_.size() - offset), extents_));
    }
    data = (extents_[next_].flags & blk::k_zero) == 0;
    return std::min(end, at_ + extents_[next_].length);
  }

 private:
  Image& image_;
  std::vector<blk::Extent> extents_;
  size_t next_ = 0;
  uint64_t at_ = 0;  // where extents_[next_] begins
};

// Cuts the disk into tasks, leaving out what is zero on both sides.
class Planner {
 public:
  Planner(Image& a, Image& b) : a_(a), b_(b), end_(std::max(a.size(), b.size())) {}

  Result<bool> next(Task& task) {
    task.clear();
    uint64_t bytes = 0;
    while (at_ < end_ && bytes < k_task && task.size() < k_max_pieces) {
      Piece piece{at_, 0, false, false};
      TRY_ASSIGN(const uint64_t until_a, a_.until(at_, end_, piece.read_a));
      TRY_ASSIGN(const uint64_t until_b, b_.until(at_, until_a, piece.read_b));
      if (!piece.read_a && !piece.read_b) {
        at_ = until_b;
        continue;
      }
      piece.length = std::min(until_b - at_, k_task - bytes);
      at_ += piece.length;
      bytes += piece.length;
      task.push_back(piece);
    }
    return !task.empty();
  }

  uint64_t end() const { return end_; }

 private:
  Walk a_, b_;
  uint64_t at_ = 0;
  uint64_t end_;
};

struct Buffers {
  explicit Buffers(size_t length) : a(length), b(length) {}
  Buffer a, b;
};

Result<const char*> bytes_of(Image& image, bool read, uint64_t offset, size_t length,
                             Buffer& buffer) {
  if (!read) return k_zeroes;
  TRY(image.read(offset, buffer.data(), length));
  return buffer.data();
}

// The shares of [offset, offset + length) that fall into each cell.
template <class Add>
void spread(std::vector<Cell>& map, uint64_t size, uint64_t offset, uint64_t length,
            const Add& add) {
  const uint64_t step = (size + map.size() - 1) / map.size();
  for (uint64_t at = offset; at < offset + length;) {
    const uint64_t next = std::min(offset + length, (at / step + 1) * step);
    add(map[at / step], next - at);
    at = next;
  }
}

void mark(std::vector<Cell>& map, uint64_t size, const Task& task,
          const std::vector<Difference>& differences) {
  for (const Piece& piece : task)
    spread(map, size, piece.offset, piece.length,
           [](Cell& cell, uint64_t n) { cell.compared += n; });
  for (const Difference& one : differences)
    spread(map, size, one.offset, one.length, [](Cell& cell, uint64_t n) { cell.differing += n; });
}

}  // namespace

Result<> Merger::add(const Difference& difference) {
  const uint64_t end = open_.offset + open_.length;
  if (open_.length != 0 && difference.offset - end < std::max<uint64_t>(merge_, 1)) {
    open_.length = difference.offset + difference.length - open_.offset;
    open_.differing += difference.differing;
    open_.a_zero = open_.a_zero && difference.a_zero;
    open_.b_zero = open_.b_zero && difference.b_zero;
    return {};
  }
  TRY(finish());
  open_ = difference;
  return {};
}

Result<> Merger::finish() {
  if (open_.length != 0) TRY(found_(open_));
  open_ = {};
  return {};
}

void find_differences(uint64_t offset, const char* a, const char* b, size_t length, uint64_t merge,
                      std::vector<Difference>& out) {
  if (std::memcmp(a, b, length) == 0) return;
  constexpr size_t k_skip = 512, k_word = sizeof(uint64_t);
  const size_t gap = std::max<uint64_t>(merge, 1);
  size_t begin = 0, end = 0;
  uint64_t differing = 0;
  char any_a = 0, any_b = 0;  // of the bytes that differ, all or-ed together
  const auto close = [&] {
    if (differing == 0) return;
    out.push_back({offset + begin, end - begin, differing, any_a == 0, any_b == 0});
    differing = 0;
    any_a = any_b = 0;
  };
  for (size_t at = 0; at < length;) {
    const size_t block = std::min(k_skip, length - at);
    if (at % k_skip == 0 && std::memcmp(a + at, b + at, block) == 0) {
      at += block;
      continue;
    }
    const size_t word = std::min(k_word, length - at);
    if (std::memcmp(a + at, b + at, word) != 0) {
      for (size_t i = at; i < at + word; ++i) {
        if (a[i] == b[i]) continue;
        if (differing != 0 && i - end >= gap) close();
        if (differing == 0) begin = i;
        end = i + 1;
        ++differing;
        any_a = static_cast<char>(any_a | a[i]);
        any_b = static_cast<char>(any_b | b[i]);
      }
    }
    at += word;
  }
  close();
}

Result<Totals> compare(Image& a, Image& b, const CompareOptions& options,
                       const Merger::Found& found) {
  Planner planner(a, b);
  Totals totals;
  totals.size = planner.end();
  Merger merger(options.merge, [&](const Difference& one) {
    if (totals.ranges++ == 0) totals.first = one.offset;
    totals.differing += one.differing;
    return found(one);
  });
  const size_t step = std::min(k_zeroes_length, std::max(a.read_size(), b.read_size()));
  std::vector<Buffers> buffers;
  for (unsigned job = 0; job < options.jobs; ++job) buffers.emplace_back(step);
  InOrder<Task, std::vector<Difference>> order;
  order.next = [&](Task& task) { return planner.next(task); };
  order.work = [&](unsigned job, const Task& task, std::vector<Difference>& out) -> Result<> {
    out.clear();
    for (const Piece& piece : task) {
      for (uint64_t done = 0; done < piece.length; done += step) {
        const uint64_t at = piece.offset + done;
        const size_t n = std::min<uint64_t>(step, piece.length - done);
        TRY_ASSIGN(const char* bytes_a, bytes_of(a, piece.read_a, at, n, buffers[job].a));
        TRY_ASSIGN(const char* bytes_b, bytes_of(b, piece.read_b, at, n, buffers[job].b));
        find_differences(at, bytes_a, bytes_b, n, options.merge, out);
      }
    }
    return {};
  };
  order.weight = [](const std::vector<Difference>& out) {
    return out.capacity() * sizeof(Difference);
  };
  order.emit = [&](const Task& task, std::vector<Difference>& differences) -> Result<> {
    for (const Piece& piece : task) totals.compared += piece.length;
    if (options.map != nullptr) mark(*options.map, totals.size, task, differences);
    for (const Difference& one : differences) TRY(merger.add(one));
    options.progress(task.back().offset + task.back().length);
    return {};
  };
  TRY(order.run(options.jobs, options.deadline));
  TRY(merger.finish());
  TRY(a.unchanged());
  TRY(b.unchanged());
  return totals;
}

}  // namespace pv::verify
