// SPDX-License-Identifier: MIT
#include "queue.hpp"

#include <cerrno>
#include <cstring>
#include <poll.h>
#include <sys/eventfd.h>

#include <fmt/format.h>

namespace pv::test::vhost {
namespace {

constexpr uint64_t avail_bytes(uint16_t size) {
  return 2 * (3 + uint64_t{size});
}

constexpr uint64_t used_bytes(uint16_t size) {
  return 6 + 8 * uint64_t{size};
}

// Whether an index went past the event that the other side waits for, modulo 65536 (virtio 1.2,
// 2.7.7.2 and 2.7.10).
bool passed(uint16_t event, uint16_t now, uint16_t before) {
  return static_cast<uint16_t>(now - event - 1) < static_cast<uint16_t>(now - before);
}

Result<Fd> make_eventfd() {
  Fd fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd) return fail_errno("eventfd", errno);
  return fd;
}

}  // namespace

Result<Queue> Queue::make(Memory& memory, uint16_t size, int region) {
  Queue queue;
  queue.memory_ = &memory;
  queue.size_ = size;
  const uint64_t table = uint64_t{size} * sizeof(Descriptor);
  TRY_ASSIGN(queue.table_at_, memory.allocate(table, 16, region));
  TRY_ASSIGN(queue.avail_at_, memory.allocate(avail_bytes(size), 2, region));
  TRY_ASSIGN(queue.used_at_, memory.allocate(used_bytes(size), 4, region));
  queue.table_ = reinterpret_cast<Descriptor*>(memory.at(queue.table_at_, table));
  queue.avail_ = reinterpret_cast<uint16_t*>(memory.at(queue.avail_at_, avail_bytes(size)));
  queue.used_ = reinterpret_cast<uint16_t*>(memory.at(queue.used_at_, used_bytes(size)));
  queue.elements_ = reinterpret_cast<UsedElement*>(queue.used_ + 2);
  TRY_ASSIGN(queue.kick_, make_eventfd());
  TRY_ASSIGN(queue.call_, make_eventfd());
  TRY_ASSIGN(queue.err_, make_eventfd());
  queue.chains_.resize(1 << 16);
  queue.reset();
  return queue;
}

void Queue::reset(uint16_t start) {
  std::memset(static_cast<void*>(table_), 0, size_ * sizeof(Descriptor));
  std::memset(avail_, 0, avail_bytes(size_));
  std::memset(used_, 0, used_bytes(size_));
  free_.clear();
  for (unsigned index = size_; index-- > 0;) free_.push_back(static_cast<uint16_t>(index));
  for (Chain& chain : chains_) {
    if (chain.indirect != 0) memory_->release(chain.indirect);
    chain = {};
  }
  next_avail_ = staged_ = last_used_ = last_kick_ = start;
  set_avail_idx(start);
  set_used_idx(start);
  store(used_[2 + 4 * size_], start);  // what a device that has taken them waits for
  wait_call(Deadline::in_ns(0));       // a call for what was used before
}

Result<uint16_t> Queue::add(std::span<const Segment> chain, bool indirect) {
  const size_t needed = indirect ? 1 : chain.size();
  if (needed == 0 || needed > free_.size())
    return fail(Code::out_of_range,
                fmt::format("{} descriptors wanted, {} are free", needed, free_.size()));
  std::vector<uint16_t> taken(free_.rbegin(), free_.rbegin() + static_cast<ptrdiff_t>(needed));
  Descriptor* table = table_;
  uint64_t table_at = 0;
  if (indirect) {
    const uint64_t bytes = chain.size() * sizeof(Descriptor);
    TRY_ASSIGN(table_at, memory_->allocate(bytes));
    table = reinterpret_cast<Descriptor*>(memory_->at(table_at, bytes));
    table_[taken[0]] = {table_at, static_cast<uint32_t>(bytes), k_desc_indirect, 0};
  }
  for (size_t at = 0; at < chain.size(); ++at) {
    const Segment& segment = chain[at];
    const bool last = at + 1 == chain.size();
    uint16_t flags = segment.write ? k_desc_write : 0;
    if (!last) flags |= k_desc_next;
    const auto next = static_cast<uint16_t>(last ? 0 : indirect ? at + 1 : taken[at + 1]);
    table[indirect ? at : taken[at]] = {segment.addr, segment.len, flags, next};
  }
  free_.resize(free_.size() - needed);
  Chain& added = chains_[taken[0]];
  added.indirect = table_at;
  added.descriptors = std::move(taken);
  return added.descriptors[0];
}

void Queue::stage(uint16_t head) {
  set_avail_ring(static_cast<uint16_t>(staged_ % size_), head);
  ++staged_;
  ++chains_[head].flights;
}

void Queue::commit() {
  next_avail_ = staged_;
  set_avail_idx(next_avail_);
}

void Queue::publish(uint16_t head) {
  stage(head);
  commit();
}

bool Queue::kick() {
  // The device writes what it wants to hear of after it has looked for more; so must we read it
  // after the index is out.
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  const uint16_t before = last_kick_;
  last_kick_ = next_avail_;
  const bool wanted = event_idx_ ? passed(avail_event(), next_avail_, before)
                                 : (used_flags() & k_used_no_notify) == 0;
  if (wanted) kick_always();
  return wanted;
}

void Queue::kick_always() {
  const uint64_t one = 1;
  // It fails only when the counter is full, and then the device has enough to hear.
  static_cast<void>(!::write(kick_.get(), &one, sizeof one));
}

Result<std::optional<UsedElement>> Queue::take_keep() {
  if (!has_used()) return std::optional<UsedElement>();
  const UsedElement element = elements_[last_used_ % size_];
  ++last_used_;
  if (element.id >= chains_.size() || chains_[element.id].flights == 0)
    return fail(Code::bug, fmt::format("used element {} names head {}, which is not in flight",
                                       static_cast<uint16_t>(last_used_ - 1), element.id));
  --chains_[element.id].flights;
  return std::optional<UsedElement>(element);
}

Result<std::optional<UsedElement>> Queue::take() {
  TRY_ASSIGN(const std::optional<UsedElement> element, take_keep());
  if (element && chains_[element->id].flights == 0) release(static_cast<uint16_t>(element->id));
  return element;
}

void Queue::release(uint16_t head) {
  Chain& chain = chains_[head];
  free_.insert(free_.end(), chain.descriptors.rbegin(), chain.descriptors.rend());
  if (chain.indirect != 0) memory_->release(chain.indirect);
  chain = {};
}

bool Queue::want_call(bool wanted) {
  if (event_idx_)
    // As far off as 16 bits go: the device's last call may be for what we took long ago.
    set_used_event(static_cast<uint16_t>(wanted ? last_used_ : last_used_ + 0x8000));
  else
    set_avail_flags(wanted ? 0 : k_avail_no_interrupt);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  return has_used();
}

bool Queue::wait_call(const Deadline& deadline) const {
  pollfd waited{call_.get(), POLLIN, 0};
  while (poll(&waited, 1, deadline.left_ms()) < 0)
    if (errno != EINTR) return false;
  uint64_t calls = 0;
  return ::read(call_.get(), &calls, sizeof calls) == sizeof calls;
}

Result<UsedElement> Queue::wait(const Deadline& deadline, Notify how) {
  while (true) {
    TRY_ASSIGN(const std::optional<UsedElement> element, take());
    if (element) return *element;
    if (want_call(how == Notify::call)) continue;
    if (how == Notify::call) wait_call(deadline);
    // What came at the very end still counts.
    if (deadline.passed() && !has_used())
      return fail(Code::timeout,
                  fmt::format("{} requests are in flight and none is answered", in_flight()));
  }
}

Descriptor* Queue::indirect_entry(uint16_t head, uint16_t index) const {
  const Chain& chain = chains_[head];
  if (chain.indirect == 0) return nullptr;
  return reinterpret_cast<Descriptor*>(
      memory_->at(chain.indirect + index * sizeof(Descriptor), sizeof(Descriptor)));
}

}  // namespace pv::test::vhost
