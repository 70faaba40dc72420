// SPDX-License-Identifier: MIT
#include "blk/cow/map.hpp"

#include <algorithm>
#include <cstring>

namespace pv::blk {
namespace {

constexpr unsigned char pattern(BlockState state) {
  return static_cast<unsigned char>(static_cast<unsigned>(state) * 0x55);
}

BlockState at(const unsigned char* states, uint64_t i) {
  return static_cast<BlockState>(states[i / 4] >> (i % 4 * 2) & 3);
}

// The first of [from, end) that is not in `state`; eight bytes, 32 blocks, at a time where it can.
uint64_t run_in(const unsigned char* states, uint64_t from, uint64_t end, BlockState state) {
  uint64_t wide;
  std::memset(&wide, pattern(state), sizeof wide);
  while (from < end) {
    uint64_t word;
    if (from % 4 == 0 && end - from >= 32 && from / 4 + 8 <= k_cow_states) {
      std::memcpy(&word, states + from / 4, sizeof word);
      if (word == wide) {
        from += 32;
        continue;
      }
    }
    if (at(states, from) != state) return from;
    ++from;
  }
  return end;
}

}  // namespace

CowMap::CowMap(std::unique_ptr<CowStore> store, const CowHeader& header)
    : store_(std::move(store)), header_(header), layout_{header.block} {
  groups_.resize(layout_.groups(header.size));
}

CowMap::~CowMap() {
  if (has_nothing_to_keep() || lost_ != 0 || aborted_ || running_) return;
  if (!commit_now()) return;
  header_.closed = true;
  static_cast<void>(write_header());
}

BlockState CowMap::state(uint64_t block) const {
  const auto& group = groups_[block / k_cow_group];
  return group ? at(group->states, block % k_cow_group) : BlockState::absent;
}

uint64_t CowMap::run_end(uint64_t from, uint64_t end) const {
  const BlockState wanted = state(from);
  while (from < end) {
    const uint64_t index = from / k_cow_group, base = index * k_cow_group;
    const uint64_t stop = std::min(end - base, k_cow_group);
    if (const auto& group = groups_[index]) {
      const uint64_t reached = run_in(group->states, from - base, stop, wanted);
      if (reached != stop) return base + reached;
    } else if (wanted != BlockState::absent) {
      return from;
    }
    from = base + stop;
  }
  return end;
}

CowMap::Group& CowMap::group(uint64_t index) {
  if (!groups_[index]) groups_[index] = std::make_unique<Group>();
  return *groups_[index];
}

void CowMap::change(Group& group, uint64_t index) {
  if (group.dirty) return;
  group.dirty = true;
  dirty_.push_back(index);
}

void CowMap::set(uint64_t from, uint64_t end, BlockState state) {
  while (from < end) {
    const uint64_t index = from / k_cow_group, base = index * k_cow_group;
    const uint64_t stop = std::min(end, base + k_cow_group);
    Group& into = group(index);
    bool changed = false;
    while (from < stop) {
      const uint64_t i = from - base;
      const BlockState old = at(into.states, i);
      if (old != state) {
        const unsigned shift = i % 4 * 2;
        into.states[i / 4] = static_cast<unsigned char>((into.states[i / 4] & ~(3U << shift)) |
                                                        static_cast<unsigned>(state) << shift);
        --counts_[static_cast<int>(old)];
        ++counts_[static_cast<int>(state)];
        changed = true;
      }
      ++from;
    }
    if (changed) change(into, index);
  }
}

bool CowMap::settled(uint64_t from, uint64_t end) const {
  for (uint64_t index = from / k_cow_group; index <= (end - 1) / k_cow_group; ++index)
    if (const auto& group = groups_[index]; group && (group->dirty || group->committing))
      return false;
  return true;
}

// --- commit -----------------------------------------------------------------------------------

void CowMap::commit(Waiter& waiter) {
  if (lost_ != 0 || has_nothing_to_keep()) return waiter.done(waiter.owner, lost_);
  waiter.next = waiting_;
  waiting_ = &waiter;
  if (!running_) start_commit();
}

void CowMap::start_commit() {
  running_ = true;
  served_ = std::exchange(waiting_, nullptr);
  error_ = 0;
  taken_.swap(dirty_);
  dirty_.clear();
  while (snapshots_.size() < taken_.size()) snapshots_.push_back(std::make_unique<Snapshot>());
  for (size_t i = 0; i < taken_.size(); ++i) {
    const uint64_t index = taken_[i];
    Group& from = *groups_[index];
    from.dirty = false;
    from.committing = true;
    Snapshot& to = *snapshots_[i];
    to.map = this;
    to.group = &from;
    std::memcpy(page_states(to.page), from.states, k_cow_states);
    seal_page(to.page, header_.id, index, from.sequence + 1);
    to.piece = {to.page, k_cow_page};
    to.request = Request{};
    to.request.op = Op::write;
    to.request.offset = layout_.slot_at(index, from.slot ^ 1U);
    to.request.length = k_cow_page;
    to.request.data = &to.piece;
    to.request.segments = 1;
    to.request.owner = &to;
    to.request.done = [](Request& done, int error) {
      static_cast<Snapshot*>(done.owner)->map->pages_written(error);
    };
  }
  sync([](Request& done, int error) {
    auto& map = *static_cast<CowMap*>(done.owner);
    if (error != 0) map.lost_ = error;
    map.write_pages(error);
  });
}

void CowMap::sync(void (*done)(Request&, int)) {
  sync_ = Request{};
  sync_.op = Op::flush;
  sync_.owner = this;
  sync_.done = done;
  store_->disk().submit(sync_);
}

void CowMap::write_pages(int error) {
  if (error != 0 || taken_.empty()) return finish_commit(error);
  const size_t count = taken_.size();
  unwritten_ = count;
  for (size_t i = 0; i < count; ++i) store_->disk().submit(snapshots_[i]->request);
}

void CowMap::pages_written(int error) {
  if (error != 0) error_ = error;
  if (--unwritten_ != 0) return;
  // A page that could not be written leaves the older slot in force; nothing is lost by that.
  if (error_ != 0) return finish_commit(error_);
  sync([](Request& done, int with) {
    auto& map = *static_cast<CowMap*>(done.owner);
    if (with != 0) map.lost_ = with;
    map.finish_commit(with);
  });
}

void CowMap::finish_commit(int error) {
  for (const uint64_t index : taken_) {
    Group& group = *groups_[index];
    group.committing = false;
    if (error != 0) {
      change(group, index);
      continue;
    }
    group.slot ^= 1U;
    ++group.sequence;
  }
  taken_.clear();
  ++commits_;
  running_ = false;
  Waiter* done = std::exchange(served_, nullptr);
  if (waiting_ != nullptr) {
    // Before the old waiters hear of it: one of them may ask again from inside its completion.
    if (lost_ == 0) {
      start_commit();
    } else {
      Waiter* more = std::exchange(waiting_, nullptr);
      while (more) std::exchange(more, more->next)->done(more->owner, lost_);
    }
  }
  while (done) {
    Waiter* waiter = std::exchange(done, done->next);
    waiter->done(waiter->owner, error);
  }
}

}  // namespace pv::blk
