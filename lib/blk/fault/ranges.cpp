// SPDX-License-Identifier: MIT
#include "blk/fault/ranges.hpp"

#include <algorithm>

namespace pv::blk {

RangeSet::RangeSet(std::vector<Range> ranges) {
  const auto before = [](const Range& a, const Range& b) { return a.offset < b.offset; };
  if (!std::is_sorted(ranges.begin(), ranges.end(), before))
    std::sort(ranges.begin(), ranges.end(), before);
  for (const Range& range : ranges) {
    const uint64_t end = range.offset + range.length;
    if (!spans_.empty() && range.offset <= spans_.back().end)
      spans_.back().end = std::max(spans_.back().end, end);
    else
      spans_.push_back({range.offset, end});
  }
  live_ = spans_.size();
  index();
}

// About one span a bucket, over the stretch that has spans.
void RangeSet::index() {
  starts_.clear();
  if (spans_.empty()) return;
  base_ = spans_.front().begin;
  const uint64_t stretch = spans_.back().end - base_;
  shift_ = 0;
  while ((stretch >> shift_) > spans_.size()) ++shift_;
  size_t span = 0;
  for (uint64_t bucket = 0; bucket <= stretch >> shift_; ++bucket) {
    while (span < spans_.size() && spans_[span].end <= base_ + (bucket << shift_)) ++span;
    starts_.push_back(static_cast<uint32_t>(span));
  }
}

// The first span that ends behind `offset`; spans_.size() when there is none.
size_t RangeSet::find(uint64_t offset) const {
  if (spans_.empty() || offset >= spans_.back().end) return spans_.size();
  if (offset < base_) return 0;
  const uint64_t bucket = (offset - base_) >> shift_;
  const size_t from = starts_[bucket];
  const size_t to = bucket + 1 < starts_.size() ? starts_[bucket + 1] : spans_.size();
  const auto ends_before = [](const Span& span, uint64_t at) { return span.end <= at; };
  return static_cast<size_t>(std::lower_bound(spans_.begin() + static_cast<ptrdiff_t>(from),
                                              spans_.begin() + static_cast<ptrdiff_t>(to), offset,
                                              ends_before) -
                             spans_.begin());
}

uint64_t RangeSet::first(uint64_t offset, uint64_t length) const {
  if (live_ == 0 || length == 0) return k_none;
  for (size_t i = find(offset); i < spans_.size() && spans_[i].begin < offset + length; ++i)
    if (spans_[i].begin != spans_[i].end && spans_[i].end > offset)
      return std::max(offset, spans_[i].begin);
  return k_none;
}

void RangeSet::erase(uint64_t offset, uint64_t length) {
  if (live_ == 0 || length == 0) return;
  const uint64_t end = offset + length;
  for (size_t i = find(offset); i < spans_.size() && spans_[i].begin < end; ++i) {
    Span& span = spans_[i];
    if (span.begin == span.end || span.end <= offset) continue;
    if (span.begin < offset && span.end > end) {
      const Span rest{end, span.end};
      span.end = offset;
      spans_.insert(spans_.begin() + static_cast<ptrdiff_t>(i) + 1, rest);
      ++live_;
      return index();
    }
    if (span.begin < offset) {
      span.end = offset;
    } else if (span.end > end) {
      span.begin = end;
    } else {
      span.begin = span.end;  // keeps its place, so that the order of the ends stands
      --live_;
    }
  }
}

std::vector<Range> RangeSet::list() const {
  std::vector<Range> ranges;
  ranges.reserve(live_);
  for (const Span& span : spans_)
    if (span.begin != span.end) ranges.push_back({span.begin, span.end - span.begin});
  return ranges;
}

}  // namespace pv::blk
