// SPDX-License-Identifier: MIT
#include "blk/layer/cache_store.hpp"

#include <cstring>
#include <unistd.h>

namespace pv::blk {

CacheStore::CacheStore(uint32_t block_size, uint64_t limit_bytes) : block_size_(block_size) {
  set_limit(limit_bytes);
}

void CacheStore::set_limit(uint64_t bytes) {
  limit_ = bytes / block_size_;
  size_t count = 64;
  while (count < limit_) count *= 2;
  std::vector<CacheBlock*> old(count, nullptr);
  old.swap(buckets_);
  for (CacheBlock* block : old) {
    while (block != nullptr) {
      CacheBlock* next = block->chain;
      CacheBlock*& place = bucket(block->index);
      block->chain = place;
      place = block;
      block = next;
    }
  }
}

CacheBlock*& CacheStore::bucket(uint64_t index) const {
  const uint64_t mixed = index * 0x9E3779B97F4A7C15ULL;
  return buckets_[(mixed >> 20) & (buckets_.size() - 1)];
}

CacheBlock* CacheStore::find(uint64_t index) const {
  CacheBlock* block = bucket(index);
  while (block != nullptr && block->index != index) block = block->chain;
  return block;
}

CacheBlock& CacheStore::fresh(uint64_t index) {
  CacheBlock& block = *pool_.take();
  if (!block.data) block.data = std::make_unique<char[]>(block_size_);
  block.index = index;
  block.age = ++age_;
  block.mask = 0;
  block.zero = block.no_unmap = block.superseded = false;
  block.state = CacheBlock::dirty;
  block.waits_for = nullptr;
  CacheBlock*& place = bucket(index);
  block.chain = place;
  place = &block;
  link(block);
  ++used_;
  return block;
}

CacheBlock& CacheStore::writable(uint64_t index) {
  CacheBlock* known = find(index);
  if (known == nullptr) return fresh(index);
  if (known->state == CacheBlock::failed) {
    known->age = ++age_;
    move(*known, CacheBlock::dirty);
  }
  if (known->state != CacheBlock::busy) return *known;
  leave_table(*known);
  known->superseded = true;
  CacheBlock& copy = fresh(index);
  copy.mask = known->mask;
  copy.zero = known->zero;
  copy.no_unmap = known->no_unmap;
  copy.waits_for = known;
  std::memcpy(copy.data.get(), known->data.get(), block_size_);
  return copy;
}

void CacheStore::set_failed(CacheBlock& block) {
  if (block.superseded) return remove(block);  // all it held is in the younger one
  move(block, CacheBlock::failed);
}

void CacheStore::remove(CacheBlock& block) {
  if (block.superseded) {
    CacheBlock* younger = find(block.index);
    if (younger != nullptr && younger->waits_for == &block) younger->waits_for = nullptr;
  } else {
    leave_table(block);
    if (block.waits_for != nullptr) restore(*block.waits_for);
  }
  unlink(block);
  --used_;
  pool_.give(&block);
}

// The older block of a place is what the disk below will hold when the younger one is lost: it is
// found there again, and a new write waits for it.
void CacheStore::restore(CacheBlock& block) {
  block.superseded = false;
  CacheBlock*& place = bucket(block.index);
  block.chain = place;
  place = &block;
}

void CacheStore::retry_failed() {
  while (CacheBlock* block = lists_[CacheBlock::failed].head) {
    block->age = ++age_;
    move(*block, CacheBlock::dirty);
  }
}

bool CacheStore::settled(uint64_t age) const {
  const CacheBlock* dirty = lists_[CacheBlock::dirty].head;
  const CacheBlock* busy = lists_[CacheBlock::busy].head;
  return (dirty == nullptr || dirty->age > age) && (busy == nullptr || busy->age > age);
}

void CacheStore::link(CacheBlock& block) {
  List& list = lists_[block.state];
  block.previous = list.tail;
  block.next = nullptr;
  (list.tail != nullptr ? list.tail->next : list.head) = &block;
  list.tail = &block;
  if (block.state == CacheBlock::busy) ++busy_count_;
}

void CacheStore::unlink(CacheBlock& block) {
  List& list = lists_[block.state];
  (block.previous != nullptr ? block.previous->next : list.head) = block.next;
  (block.next != nullptr ? block.next->previous : list.tail) = block.previous;
  if (block.state == CacheBlock::busy) --busy_count_;
}

void CacheStore::move(CacheBlock& block, CacheBlock::State state) {
  unlink(block);
  block.state = state;
  link(block);
}

void CacheStore::leave_table(const CacheBlock& block) {
  CacheBlock** place = &bucket(block.index);
  while (*place != &block) place = &(*place)->chain;
  *place = block.chain;
}

}  // namespace pv::blk
