// SPDX-License-Identifier: MIT
#include "front/vhost/ring.hpp"

#include <atomic>
#include <utility>

namespace pv::vhost {
namespace {

template <class T>
T load(const T* at) {
  return __atomic_load_n(at, __ATOMIC_RELAXED);
}
template <class T>
T load_acquire(const T* at) {
  return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}
template <class T>
void store(T* at, T value) {
  __atomic_store_n(at, value, __ATOMIC_RELAXED);
}

}  // namespace

void Ring::start(uint16_t size, uint16_t next, bool event_idx) {
  size_ = size;
  next_ = next;
  used_index_ = shown_ = load_acquire(&used_->idx);
  event_idx_ = event_idx;
  told_ = poisoned_ = false;
}

void Ring::move(Desc* desc, char* avail, char* used) {
  desc_ = desc;
  avail_ = reinterpret_cast<AvailHead*>(avail);
  used_ = reinterpret_cast<UsedHead*>(used);
}

uint16_t* Ring::avail_ring() const {
  return reinterpret_cast<uint16_t*>(avail_ + 1);
}
UsedElem* Ring::used_ring() const {
  return reinterpret_cast<UsedElem*>(used_ + 1);
}

Desc Ring::desc(uint16_t index) const {
  const Desc* at = desc_ + index;
  return {load(&at->addr), load(&at->len), load(&at->flags), load(&at->next)};
}

std::optional<uint16_t> Ring::take() {
  if (poisoned_) return std::nullopt;
  const auto ahead = static_cast<uint16_t>(load_acquire(&avail_->idx) - next_);
  if (ahead == 0) return std::nullopt;
  if (ahead > size_) {
    poisoned_ = true;
    return std::nullopt;
  }
  const uint16_t head = load(avail_ring() + (next_ & (size_ - 1)));
  ++next_;
  return head;
}

void Ring::hush() {
  // With EVENT_IDX the index that we asked to be told at lies behind already.
  if (!event_idx_) store(&used_->flags, k_used_no_notify);
}

void Ring::set_avail_event(uint16_t index) {
  store(reinterpret_cast<uint16_t*>(used_ring() + size_), index);
}

bool Ring::listen() {
  if (poisoned_) return false;
  if (event_idx_)
    set_avail_event(next_);
  else
    store(&used_->flags, uint16_t{0});
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return load_acquire(&avail_->idx) != next_;
}

uint16_t Ring::put(uint32_t id, uint32_t length) {
  const auto place = static_cast<uint16_t>(used_index_ & (size_ - 1));
  UsedElem* element = used_ring() + place;
  store(&element->id, id);
  store(&element->len, length);
  ++used_index_;
  return place;
}

bool Ring::publish() {
  const uint16_t before = shown_;
  shown_ = used_index_;
  __atomic_store_n(&used_->idx, shown_, __ATOMIC_RELEASE);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!event_idx_) return (load(&avail_->flags) & k_avail_no_interrupt) == 0;
  const uint16_t wanted = load(avail_ring() + size_);
  const bool crossed =
      static_cast<uint16_t>(shown_ - wanted - 1) < static_cast<uint16_t>(shown_ - before);
  return !std::exchange(told_, true) || crossed;
}

}  // namespace pv::vhost
