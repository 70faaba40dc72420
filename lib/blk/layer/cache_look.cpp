// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cstring>

#include "blk/layer/cache.hpp"
#include "blk/segments.hpp"

namespace pv::blk {

void Cache::look(Request& request) {
  if (store_.used() == 0) return lower().submit(request);
  const uint64_t first = block_of(request.offset), last = block_of(last_byte(request));
  bool some = false, all = request.op == Op::read && last - first < store_.used();
  if (all) {
    for (uint64_t index = first; index <= last; ++index) {
      const CacheBlock* block = store_.find(index);
      const uint8_t bits = part_of(request, index).bits();
      some = some || (block != nullptr && (block->mask & bits) != 0);
      all = all && block != nullptr && (block->mask & bits) == bits;
    }
  } else {
    store_.each_in(first, last, [&](CacheBlock&) { some = true; });
  }
  if (!some) return lower().submit(request);
  if (all) {
    overlay(request);
    return request.done(request, 0);
  }
  Flight* flight = follow(request);
  looks_.push_back(flight);
  look_below(*flight);
}

void Cache::look_below(Flight& flight) {
  flight.stale = false;
  flight.extents.clear();
  make_child(flight.child, *flight.parent, &flight, [](Request& child, int error) {
    auto& done = *static_cast<Flight*>(child.owner);
    done.layer->looked(done, error);
  });
  flight.child.loan = nullptr;
  flight.child.wire = nullptr;
  if (flight.child.op == Op::map) flight.child.extents = &flight.extents;
  lower().submit(flight.child);
}

void Cache::looked(Flight& flight, int error) {
  // What left for the disk below meanwhile may be in neither place that was looked at.
  if (flight.stale) return look_below(flight);
  Request* parent = flight.parent;
  if (error == 0 && parent->op == Op::read) overlay(*parent);
  if (error == 0 && parent->op == Op::map) overlay_map(flight);
  forget_flight(looks_, &flight);
  flights_.give(&flight);
  parent->done(*parent, error);
}

void Cache::overlay(const Request& request) {
  store_.each_in(block_of(request.offset), block_of(last_byte(request)), [&](CacheBlock& block) {
    const Part part = part_of(request, block.index);
    for (int i = 0; i < part.count; ++i) {
      const int bit = part.first + i;
      if ((block.mask >> bit & 1) == 0) continue;
      const uint64_t at = part.at + static_cast<uint64_t>(i) * store_.unit();
      const char* held = block.data.get() + static_cast<size_t>(bit) * store_.unit();
      if (!block.zero)
        scatter(request, at, held, store_.unit());
      else
        each_segment(request, at, store_.unit(), [](char* p, size_t n) { memset(p, 0, n); });
    }
  });
}

void Cache::overlay_map(Flight& flight) {
  const Request& parent = *flight.parent;
  struct Held {
    uint64_t begin, end;
    uint32_t flags;
  };
  std::vector<Held> held;
  store_.each_in(block_of(parent.offset), block_of(last_byte(parent)), [&](CacheBlock& block) {
    const uint64_t start = block.index * store_.block_size();
    for (int bit = 0; bit < 8; ++bit)
      if ((block.mask >> bit & 1) != 0) {
        const uint64_t begin = start + static_cast<uint64_t>(bit) * store_.unit();
        held.push_back({begin, begin + store_.unit(), block.zero ? k_zero : 0U});
      }
  });
  std::sort(held.begin(), held.end(), [](auto& a, auto& b) { return a.begin < b.begin; });
  std::vector<Extent>& out = *parent.extents;
  const size_t before = out.size();
  const auto add = [&](uint64_t length, uint32_t flags) {
    if (length == 0) return;
    if (out.size() > before && out.back().flags == flags)
      out.back().length += length;
    else
      out.push_back({length, flags});
  };
  uint64_t at = parent.offset;
  auto next = held.begin();
  for (const Extent& extent : flight.extents) {
    const uint64_t end = at + extent.length;
    while (at < end) {
      while (next != held.end() && next->end <= at) ++next;
      const bool here = next != held.end() && next->begin <= at;
      const uint64_t border = next == held.end() ? end : here ? next->end : next->begin;
      const uint64_t stop = std::min(end, border);
      add(stop - at, here ? next->flags : extent.flags);
      at = stop;
    }
  }
  if ((parent.flags & k_one) != 0 && out.size() > before + 1) out.resize(before + 1);
}

void Cache::make_stale(uint64_t offset, uint64_t length) {
  for (Flight* flight : looks_)
    if (overlap(*flight->parent, offset, length)) flight->stale = true;
}

}  // namespace pv::blk
