// SPDX-License-Identifier: MIT
// What the volatile cache holds: blocks that the disk below does not have yet. Found by their place
// through a hash table, and kept in the order in which they became dirty. Owned by one cache layer.
#pragma once

#include <memory>
#include <unistd.h>
#include <vector>

#include "blk/child.hpp"

namespace pv::blk {

struct CacheBlock {
  enum State : uint8_t { dirty, busy, failed };  // busy: on its way to the disk below
  uint64_t index = 0;
  uint64_t age = 0;  // greater is younger
  std::unique_ptr<char[]> data;
  uint8_t mask = 0;         // which eighths of the block are held
  bool zero = false;        // they are all zeroes, and are written below as such
  bool no_unmap = false;    // ... which must leave the range allocated
  bool superseded = false;  // busy, and a younger block has its place in the table
  State state = dirty;
  CacheBlock* waits_for = nullptr;  // the older block of the same place, still on its way
  CacheBlock* chain = nullptr;
  CacheBlock* previous = nullptr;
  CacheBlock* next = nullptr;
};

class CacheStore {
 public:
  CacheStore(uint32_t block_size, uint64_t limit_bytes);

  uint32_t block_size() const { return block_size_; }
  uint32_t unit() const { return block_size_ / 8; }
  uint64_t limit() const { return limit_; }  // blocks
  uint64_t used() const { return used_; }    // blocks
  uint64_t busy_count() const { return busy_count_; }
  uint64_t age() const { return age_; }  // of the youngest block
  void set_limit(uint64_t bytes);

  CacheBlock* find(uint64_t index) const;
  // The dirty block to write to, made when it is not there. One that is on its way below is left
  // alone: a copy takes its place.
  CacheBlock& writable(uint64_t index);
  void set_busy(CacheBlock& block) { move(block, CacheBlock::busy); }
  void set_failed(CacheBlock& block);
  // Forgets a block; the younger one that waited for it may go, the older one it waited for has its
  // place again.
  void remove(CacheBlock& block);
  // Failed blocks are dirty again, as the youngest.
  void retry_failed();

  CacheBlock* oldest(CacheBlock::State state) const { return lists_[state].head; }
  // Whether every block that was dirty at `age` has been written below, or has failed.
  bool settled(uint64_t age) const;
  // act(block) for every block in the table within [first, last]; it may remove the block.
  template <class Act>
  void each_in(uint64_t first, uint64_t last, Act&& act);

 private:
  struct List {
    CacheBlock* head = nullptr;
    CacheBlock* tail = nullptr;
  };
  CacheBlock*& bucket(uint64_t index) const;
  void link(CacheBlock& block);
  void unlink(CacheBlock& block);
  void move(CacheBlock& block, CacheBlock::State state);
  void leave_table(const CacheBlock& block);
  void restore(CacheBlock& block);
  CacheBlock& fresh(uint64_t index);

  uint32_t block_size_;
  uint64_t limit_ = 0;
  uint64_t used_ = 0;
  uint64_t busy_count_ = 0;
  uint64_t age_ = 0;
  mutable std::vector<CacheBlock*> buckets_;
  List lists_[3];
  Pool<CacheBlock> pool_;
};

template <class Act>
void CacheStore::each_in(uint64_t first, uint64_t last, Act&& act) {
  if (last - first < used_) {
    for (uint64_t index = first; index <= last; ++index)
      if (CacheBlock* block = find(index)) act(*block);
    return;
  }
  for (const List& list : lists_) {
    for (CacheBlock *block = list.head, *next = nullptr; block != nullptr; block = next) {
      next = block->next;
      if (!block->superseded && block->index >= first && block->index <= last) act(*block);
    }
  }
}

}  // namespace pv::blk
