// SPDX-License-Identifier: MIT
// What a power cut does to the volatile cache.
//
// cache.drop loses what is held, but for the survivors, and goes on. power.off does the same and
// leaves the cache off: what was on its way below settles, nothing more is begun, and requests that
// a layer above had held back until now are refused. power.on lets the survivors follow; the flush
// that comes next puts them below. Both go to every cache of the stack.
#include <algorithm>
#include <bit>
#include <cerrno>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/layer/cache.hpp"
#include "blk/layer/cache_survivors.hpp"

namespace pv::blk {
namespace {

Result<Survivors::Kind> kind_from(const std::string& name) {
  constexpr const char* k_names[] = {"none", "all", "random", "listed"};
  for (size_t i = 0; i < std::size(k_names); ++i)
    if (name == k_names[i]) return static_cast<Survivors::Kind>(i);
  return fail(Code::usage, fmt::format("survivors '{}' is not one of none, all, random, listed",
                                       printable(name)));
}

Result<> add_range(const json& item, const Geometry& geometry, Survivors& survivors) {
  if (!item.is_array() || item.size() != 2 || !item[0].is_number_unsigned() ||
      !item[1].is_number_unsigned())
    return fail(Code::usage, "keep is not a list of [OFFSET,LENGTH]");
  const auto offset = item[0].get<uint64_t>(), length = item[1].get<uint64_t>();
  if (length == 0 || (offset | length) % geometry.sector_size != 0)
    return fail(Code::invalid, fmt::format("{}+{} bytes to keep are not whole sectors of {}",
                                           offset, length, geometry.sector_size));
  if (offset > geometry.size || length > geometry.size - offset)
    return fail(Code::out_of_range,
                fmt::format("{}+{} bytes to keep reach past the end of the disk ({} bytes)", offset,
                            length, geometry.size));
  survivors.keep.emplace_back(offset, offset + length);
  return {};
}

void join_ranges(std::vector<std::pair<uint64_t, uint64_t>>& ranges) {
  std::sort(ranges.begin(), ranges.end());
  size_t count = 0;
  for (const auto& range : ranges) {
    if (count != 0 && range.first <= ranges[count - 1].second)
      ranges[count - 1].second = std::max(ranges[count - 1].second, range.second);
    else
      ranges[count++] = range;
  }
  ranges.resize(count);
}

}  // namespace

bool Survivors::keeps(uint64_t offset) const {
  switch (kind) {
    case none:
      return false;
    case all:
      return true;
    case random:
      return (mix(seed, offset / atomic * atomic) & 1) != 0;
    case listed:
      break;
  }
  const auto after = std::upper_bound(keep.begin(), keep.end(), std::pair(offset, UINT64_MAX));
  return after != keep.begin() && offset < std::prev(after)->second;
}

Result<Survivors> survivors_from(const json& request, const Geometry& geometry) {
  Survivors survivors;
  TRY_ASSIGN(survivors.kind, kind_from(get_string(request, "survivors")));
  survivors.atomic = get_u64(request, "atomic_bytes", geometry.sector_size);
  if (survivors.atomic == 0 || survivors.atomic % geometry.sector_size != 0)
    return fail(Code::invalid, fmt::format("{} bytes that survive together are not whole sectors "
                                           "of {}",
                                           survivors.atomic, geometry.sector_size));
  if (survivors.kind == Survivors::random) {
    TRY_ASSIGN(survivors.seed, parse_seed("seed", get_string(request, "seed")));
  }
  if (const json* keep = find(request, "keep")) {
    for (const json& item : *keep) TRY(add_range(item, geometry, survivors));
    join_ranges(survivors.keep);
  }
  return survivors;
}

Result<json> Cache::cut(const json& request) {
  TRY_ASSIGN(const Survivors survivors, survivors_from(request, geometry()));
  off_ = get_string(request, "op") == "power.off";
  const auto below = off_ ? lower().control(request) : fail(Code::unsupported, "");
  if (!below && below.error().code != Code::unsupported) {
    off_ = false;
    return fail(below.error());
  }
  // With survivors "all" nothing that was promised is lost: flushes under way go on.
  for (Flight* flight : flushes_)
    if (survivors.kind != Survivors::all && flight->error == 0) flight->error = EIO;
  if (off_) refuse_waiting();
  const uint64_t held = held_bytes();
  lose(survivors);
  const uint64_t kept = held_bytes();
  store_.retry_failed();
  if (survivors.kind != Survivors::none) room_goal_ = 0;
  turn();
  json lost = {{"dropped_bytes", held - kept}, {"kept_bytes", kept}};
  for (auto& [key, value] : lost.items())
    if (below) value = value.get<uint64_t>() + get_u64(*below, key);
  return lost;
}

Result<json> Cache::power_on(const json& request) {
  const auto below = lower().control(request);
  if (!below && below.error().code != Code::unsupported) return fail(below.error());
  off_ = false;
  turn();
  return json::object();
}

// Requests that wait for others would wait for ever; nobody will hear what became of them.
void Cache::refuse_waiting() {
  while (!waiting_.empty()) {
    Request& request = *waiting_.front();
    waiting_.pop();
    request.done(request, ESHUTDOWN);
  }
  for (Flight* flight : std::exchange(flushes_, {})) flushed(*flight, ESHUTDOWN);
}

// Blocks on their way below may or may not arrive: no disk can call them back.
void Cache::lose(const Survivors& survivors) {
  if (store_.used() == 0) return;
  store_.each_in(0, block_of(geometry().size - 1), [&](CacheBlock& block) {
    if (block.state == CacheBlock::busy) return;
    const uint64_t start = block.index * store_.block_size();
    for (int bit = 0; bit < 8; ++bit)
      if (!survivors.keeps(start + static_cast<uint64_t>(bit) * store_.unit()))
        block.mask &= static_cast<uint8_t>(~(1U << bit));
    if (block.mask == 0) store_.remove(block);
  });
  make_stale(0, geometry().size);
}

uint64_t Cache::held_bytes() {
  uint64_t units = 0;
  if (store_.used() != 0)
    store_.each_in(0, block_of(geometry().size - 1), [&](const CacheBlock& block) {
      units += static_cast<uint64_t>(std::popcount(block.mask));
    });
  return units * store_.unit();
}

}  // namespace pv::blk
