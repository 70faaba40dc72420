// SPDX-License-Identifier: MIT
// The volatile cache in a snapshot: what it holds, oldest first, so that the disk loses as much in
// a power cut as it would have, and writes back in the same order.
#include <bit>
#include <cstring>

#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/layer/cache.hpp"
#include "blk/state.hpp"

namespace pv::blk {
namespace {

constexpr uint32_t k_block = 1;  // a: its index, b: mask and flags; the eighths that are held
constexpr uint64_t k_zero_block = 1 << 8, k_no_unmap_block = 1 << 9, k_failed_block = 1 << 10;
constexpr uint64_t k_max_limit = 64ULL << 30;

}  // namespace

// What still moves by itself when no request is in flight.
json Cache::busy(const json& request) {
  uint64_t count = jobs_.in_use() + flights_.in_use() + waiting_.size();
  if (const auto below = lower().control(request)) count += get_u64(*below, "busy");
  return {{"busy", count}};
}

Result<> Cache::save_state(StateOut& out) {
  out.section("cache", {{"size_bytes", store_.limit() * store_.block_size()},
                        {"block_bytes", store_.block_size()}});
  for (const CacheBlock::State state : {CacheBlock::dirty, CacheBlock::failed})
    for (const CacheBlock* block = store_.oldest(state); block != nullptr; block = block->next)
      TRY(save_block(out, *block));
  return lower().save_state(out);
}

Result<> Cache::save_block(StateOut& out, const CacheBlock& block) {
  StateRecord record;
  record.kind = k_block;
  record.a = block.index;
  record.b = block.mask | (block.zero ? k_zero_block : 0) |
             (block.no_unmap ? k_no_unmap_block : 0) |
             (block.state == CacheBlock::failed ? k_failed_block : 0);
  for (int bit = 0; !block.zero && bit < 8; ++bit)
    if ((block.mask >> bit & 1) != 0)
      record.bytes.append(block.data.get() + static_cast<size_t>(bit) * store_.unit(),
                          store_.unit());
  return out.record(record);
}

Result<> Cache::load_state(StateIn& in) {
  TRY_ASSIGN(const json* state, in.section("cache"));
  const uint64_t limit = get_u64(*state, "size_bytes");
  if (limit == 0 || limit > k_max_limit || get_u64(*state, "block_bytes") != store_.block_size())
    return bad_state("cache", "its sizes");
  store_.set_limit(limit);
  while (in.left() != 0) TRY(load_block(in));
  return lower().load_state(in);
}

Result<> Cache::load_block(StateIn& in) {
  TRY_ASSIGN(const StateRecord record, in.record());
  const auto mask = static_cast<uint8_t>(record.b);
  const uint64_t blocks = geometry().size / store_.block_size() + 1;
  const bool zero = (record.b & k_zero_block) != 0;
  if (record.kind != k_block || mask == 0 || record.b >= 2 * k_failed_block || record.a >= blocks ||
      store_.find(record.a) != nullptr)
    return bad_state("cache", "a block that cannot be");
  const uint64_t end =
      record.a * store_.block_size() + static_cast<uint64_t>(std::bit_width(mask)) * store_.unit();
  const size_t held = static_cast<size_t>(std::popcount(mask)) * store_.unit();
  if (end > geometry().size || record.bytes.size() != (zero ? 0 : held))
    return bad_state("cache", "a block of another size");
  if (store_.used() >= store_.limit()) return bad_state("cache", "more blocks than it can hold");
  CacheBlock& block = store_.writable(record.a);
  block.mask = mask;
  block.zero = zero;
  block.no_unmap = (record.b & k_no_unmap_block) != 0;
  const char* from = record.bytes.data();
  for (int bit = 0; !zero && bit < 8; ++bit) {
    if ((mask >> bit & 1) == 0) continue;
    std::memcpy(block.data.get() + static_cast<size_t>(bit) * store_.unit(), from, store_.unit());
    from += store_.unit();
  }
  if ((record.b & k_failed_block) != 0) store_.set_failed(block);
  return {};
}

}  // namespace pv::blk
