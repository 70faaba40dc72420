// SPDX-License-Identifier: MIT
#include "blk/layer/cache.hpp"

#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/layer/layers.hpp"
#include "blk/segments.hpp"
#include "blk/tune.hpp"

namespace pv::blk {
namespace {

constexpr uint64_t k_default_size = 64 << 20;
constexpr uint64_t k_min_size = 64 << 10, k_max_size = 64ULL << 30;

constexpr ParamSpec k_cache_params[] = {
    {"size", "SIZE", "how much is held before the oldest is written back (default 64M)"},
};

Result<uint64_t> size_from(const std::map<std::string, std::string>& params) {
  const auto given = params.find("size");
  if (given == params.end()) return k_default_size;
  const auto size = parse_size(given->second);
  if (size && *size >= k_min_size && *size <= k_max_size) return *size;
  return fail(Code::usage,
              fmt::format("layer 'cache': size={} is not a size from 64K to 64G", given->second));
}

}  // namespace

void Cache::submit(Request& request) {
  if (off_) return request.done(request, ESHUTDOWN);
  switch (request.op) {
    case Op::read:
    case Op::map:
      return look(request);
    case Op::flush:
      return flush(request);
    case Op::write:
    case Op::zero:
    case Op::discard:
      return change(request);
    case Op::cache:
      return lower().submit(request);
  }
}

Result<json> Cache::control(const json& request) {
  const std::string op = get_string(request, "op");
  if (op == "cache.drop" || op == "power.off") return cut(request);
  if (op == "power.on") return power_on(request);
  if (op == "cache.held" && store_.used() != 0) return shown();
  if (op == "state.flush_matters" && store_.used() != 0) return json::object();
  if (op == "state.busy") return busy(request);
  if (!tunes(request, "cache")) return lower().control(request);
  TRY_ASSIGN(const auto params, tune_params(request, {"size"}));
  TRY_ASSIGN(const uint64_t bytes, size_from(params));
  store_.set_limit(bytes);
  if (store_.used() > store_.limit()) room_goal_ = store_.limit();
  turn();
  return json{{"layer", shown()}};
}

// Nothing of a front end is in flight; what lies past a new end has no place to go to.
Result<> Cache::resize(uint64_t size) {
  TRY(lower().resize(size));
  forget(size, UINT64_MAX - size);
  return {};
}

void Cache::inspect(json& out) const {
  out["cache"] = shown();
  lower().inspect(out);
}

void Cache::change(Request& request) {
  if (waiting_.empty()) {
    room_error_ = 0;
    if (const Verdict verdict = judge(request); verdict != Verdict::wait)
      return act(request, verdict);
  }
  waiting_.push(&request);
  turn();
}

bool Cache::goes_through(const Request& request) const {
  return request.op == Op::discard || (request.flags & k_fua) != 0 ||
         request.length > store_.limit() * store_.block_size() / 2;
}

bool Cache::under_way_through(uint64_t index) const {
  const auto here = [&](const Flight* flight) {
    return overlap(*flight->parent, index * store_.block_size(), store_.block_size());
  };
  return std::any_of(throughs_.begin(), throughs_.end(), here);
}

// Whether a change may be carried out now; asks for room where it is room that is missing.
Cache::Verdict Cache::judge(const Request& request) {
  const uint64_t first = block_of(request.offset), last = block_of(last_byte(request));
  const auto meets = [&](const Flight* flight) {
    const Request& other = *flight->parent;
    return first <= block_of(last_byte(other)) && block_of(other.offset) <= last;
  };
  if (std::any_of(throughs_.begin(), throughs_.end(), meets)) return Verdict::wait;
  if (goes_through(request)) {
    bool moving = false;
    store_.each_in(first, last, [&](const CacheBlock& block) {
      moving = moving || block.state == CacheBlock::busy || block.waits_for != nullptr;
    });
    return moving ? Verdict::wait : Verdict::go;
  }
  uint64_t needed = 0;
  for (uint64_t index = first; index <= last; ++index) {
    const CacheBlock* block = store_.find(index);
    if (block == nullptr || block->state == CacheBlock::busy) ++needed;
  }
  if (needed == 0 || store_.used() + needed <= store_.limit()) return Verdict::go;
  if (!store_.oldest(CacheBlock::dirty) && !store_.oldest(CacheBlock::busy)) {
    if (room_error_ != 0) return Verdict::refuse;  // nothing that is held can be written back
    store_.retry_failed();
  }
  room_goal_ = std::min(room_goal_, store_.limit() - std::max(needed, store_.limit() / 8));
  return Verdict::wait;
}

void Cache::act(Request& request, Verdict verdict) {
  if (verdict == Verdict::refuse) return request.done(request, std::exchange(room_error_, 0));
  if (goes_through(request)) return go_through(request);
  for (uint64_t i = block_of(request.offset); i <= block_of(last_byte(request)); ++i)
    absorb(request, i);
  request.done(request, 0);
}

void Cache::absorb(const Request& request, uint64_t index) {
  CacheBlock& block = store_.writable(index);
  const Part part = part_of(request, index);
  const uint8_t bits = part.bits();
  char* to = block.data.get() + static_cast<size_t>(part.first) * store_.unit();
  const size_t length = static_cast<size_t>(part.count) * store_.unit();
  if (request.op == Op::write) {
    if (block.zero) std::memset(block.data.get(), 0, store_.block_size());
    block.zero = block.no_unmap = false;
    gather(request, part.at, to, length);
  } else if ((block.mask & ~bits) == 0 || block.zero) {
    const bool rest = (block.mask & ~bits) != 0 && block.no_unmap;
    block.zero = true;
    block.no_unmap = rest || (request.flags & k_no_unmap) != 0;
  } else {
    std::memset(to, 0, length);
  }
  block.mask |= bits;
}

void Cache::go_through(Request& request) {
  Flight* flight = follow(request);
  throughs_.push_back(flight);
  make_child(flight->child, request, flight, [](Request& child, int error) {
    auto& done = *static_cast<Flight*>(child.owner);
    done.layer->went_through(done, error);
  });
  lower().submit(flight->child);
}

void Cache::went_through(Flight& flight, int error) {
  Request* parent = flight.parent;
  if (error == 0) replaced(*parent);
  forget_flight(throughs_, &flight);
  flights_.give(&flight);
  parent->done(*parent, error);
  turn();
}

// The disk below has taken a request whole. What a discard leaves alone there stays here too.
void Cache::replaced(const Request& request) {
  const Geometry& below = geometry();
  uint64_t begin = request.offset, end = request.offset + request.length;
  if (request.op == Op::discard && below.discard == DiscardBehaviour::ignored) return;
  if (request.op == Op::discard && below.discard == DiscardBehaviour::unspecified) {
    const uint64_t granule = std::max(below.discard_granularity, below.sector_size);
    begin = (begin + granule - 1) / granule * granule;
    end = end / granule * granule;
  }
  if (begin < end) forget(begin, end - begin);
}

// The range is held no longer, except where it is on its way below.
void Cache::forget(uint64_t offset, uint64_t length) {
  if (store_.used() == 0 || length == 0) return;
  Request range;
  range.offset = offset;
  range.length = length;
  store_.each_in(block_of(offset), block_of(last_byte(range)), [&](CacheBlock& block) {
    if (block.state == CacheBlock::busy) return;
    block.mask &= static_cast<uint8_t>(~part_of(range, block.index).bits());
    if (block.mask == 0) store_.remove(block);
  });
  make_stale(offset, length);
}

json Cache::shown() const {
  return {{"size_bytes", store_.limit() * store_.block_size()},
          {"held_bytes", store_.used() * store_.block_size()},
          {"write_backs", write_backs_},
          {"write_back_errors", errors_}};
}

std::span<const ParamSpec> cache_params() {
  return k_cache_params;
}

Result<std::unique_ptr<Disk>> make_cache(std::unique_ptr<Disk> lower, const LayerSpec& spec,
                                         const Env&) {
  TRY_ASSIGN(const uint64_t bytes, size_from(spec.params));
  return std::make_unique<Cache>(std::move(lower), bytes);
}

}  // namespace pv::blk
