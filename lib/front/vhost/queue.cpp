// SPDX-License-Identifier: MIT
// Setting a queue up, and taking from its ring. (What becomes of a request is in jobs.cpp.)
#include "front/vhost/queue.hpp"

#include <bit>
#include <cerrno>
#include <unistd.h>

#include <fmt/format.h>

namespace pv::vhost {
namespace {

constexpr size_t k_turn = 256;         // requests before others have their turn
constexpr size_t k_publish_each = 16;  // answers that the guest can look at while we go on

template <class T>
bool is_aligned(const void* at) {
  return reinterpret_cast<uintptr_t>(at) % alignof(T) == 0;
}

}  // namespace

Queue::~Queue() {
  *alive_ = false;
  if (kick_) session_.ground.loop.unwatch(kick_.get());
}

Result<> Queue::set_size(uint32_t size) {
  if (started_) return fail(Code::invalid, "the size of a queue that runs");
  if (size > k_max_ring || !std::has_single_bit(size))
    return fail(Code::invalid, fmt::format("a queue of {} descriptors", size));
  size_ = static_cast<uint16_t>(size);
  placed_ = false;
  return {};
}

Result<> Queue::set_next(uint32_t index) {
  if (started_) return fail(Code::invalid, "the index of a queue that runs");
  if (index > UINT16_MAX) return fail(Code::invalid, fmt::format("a queue at index {}", index));
  next_ = static_cast<uint16_t>(index);
  return {};
}

// Said again of a queue that runs when the log of dirty pages is switched.
Result<> Queue::set_addresses(const VringAddr& addresses) {
  const VringAddr before = std::exchange(addresses_, addresses);
  auto placed = place();
  if (!placed) addresses_ = before;
  return placed;
}

Result<> Queue::place() {
  if (size_ == 0) return fail(Code::invalid, "the addresses of a queue without a size");
  const auto& memory = session_.memory;
  char* desc = memory->find_user(addresses_.desc, Ring::desc_bytes(size_));
  char* avail = memory->find_user(addresses_.avail, Ring::avail_bytes(size_));
  char* used = memory->find_user(addresses_.used, Ring::used_bytes(size_));
  if (desc == nullptr || avail == nullptr || used == nullptr)
    return fail(Code::invalid, "a queue that lies outside the guest's memory");
  if (!is_aligned<Desc>(desc) || !is_aligned<AvailHead>(avail) || !is_aligned<UsedElem>(used))
    return fail(Code::invalid, "a queue that is not aligned");
  ring_.move(reinterpret_cast<Desc*>(desc), avail, used);
  ring_memory_ = memory;
  placed_ = true;
  return {};
}

Result<> Queue::find_again() {
  if (!placed_) return {};
  auto placed = place();
  if (started_) return placed;
  placed_ = placed.has_value();  // it may be given other addresses before it starts
  return {};
}

Result<> Queue::set_kick(Fd kick) {
  if (!kick) return fail(Code::unsupported, "a queue that is to be polled");
  if (!placed_ && !started_)
    return fail(Code::invalid, "a queue that starts before it has addresses");
  Loop& loop = session_.ground.loop;
  TRY(loop.watch(kick.get(), EPOLLIN, [this](uint32_t) {
    uint64_t count = 0;
    const ssize_t n = ::read(kick_.get(), &count, sizeof count);
    // No counter of events, or a pipe at its end: it would be ready for ever.
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
      session_.ground.loop.unwatch(kick_.get());
    run();
  }));
  if (kick_) loop.unwatch(kick_.get());
  kick_ = std::move(kick);
  if (!started_) start();
  return {};
}

void Queue::set_call(Fd call) {
  call_ = std::move(call);
  // What was published before there was anything to call is not to be missed.
  const uint64_t one = 1;
  if (started_ && call_) static_cast<void>(::write(call_.get(), &one, sizeof one));
}

void Queue::enable(bool on) {
  enabled_ = on;
  if (on) run_later();
}

void Queue::start() {
  ring_.start(size_, next_, session_.has(k_f_event_idx));
  started_ = true;
  told_poison_ = false;
  // The requests that are under way were taken, whatever index the front end remembers.
  const uint16_t seen = ring_.used_index();
  std::vector<uint16_t> heads = inflight_.start(inflight_map_, index_, size_, seen);
  if (!heads.empty()) ring_.set_next(static_cast<uint16_t>(seen + heads.size()));
  again_.assign(heads.rbegin(), heads.rend());
  run_later();
}

void Queue::stop(std::function<void()> idle) {
  if (started_) next_ = ring_.next_index();
  if (kick_) session_.ground.loop.unwatch(kick_.get());
  kick_.reset();
  idle_ = std::move(idle);
  maybe_idle();
}

void Queue::maybe_idle() {
  if (!idle_ || in_flight() != 0 || in_batch_) return;
  publish();
  started_ = false;
  placed_ = false;
  inflight_.end();
  again_.clear();
  std::exchange(idle_, nullptr)();
}

void Queue::abandon() {
  if (kick_) session_.ground.loop.unwatch(kick_.get());
  kick_.reset();
  enabled_ = false;
  idle_ = nullptr;
  for (Job* job : std::exchange(held_, {})) release(*job);
}

bool Queue::can_take() const {
  return started_ && enabled_ && !idle_ && !session_.gone && session_.ground.may_begin() &&
         jobs_.in_use() < size_;
}

bool Queue::take(uint16_t& head) {
  if (!again_.empty()) {
    head = again_.back();
    again_.pop_back();
    return true;
  }
  const auto next = ring_.take();
  if (next) head = *next;
  return next.has_value();
}

void Queue::run() {
  if (in_batch_ || !can_take()) return;
  in_batch_ = true;
  ring_.hush();
  size_t taken = 0, shown = 0;
  bool more = true;
  while (more) {
    uint16_t head = 0;
    while (taken < k_turn && can_take() && take(head)) {
      begin(head);
      if (++taken - shown >= k_publish_each) {
        publish();
        shown = taken;
      }
    }
    // One that cannot take is asked again when it can: no kick is needed for that.
    more = taken < k_turn && can_take() && ring_.listen();
  }
  in_batch_ = false;
  publish();
  if (taken == k_turn) run_later();
  if (taken != 0) session_.ground.loop.spin_once();
  report_poison();
  maybe_idle();
}

void Queue::run_later() {
  if (std::exchange(run_posted_, true)) return;
  session_.ground.loop.post([this, alive = alive_] {
    if (!*alive) return;
    run_posted_ = false;
    run();
  });
}

void Queue::report_poison() {
  if (!ring_.is_poisoned() || std::exchange(told_poison_, true)) return;
  session_.ground.counters.malformed();
  const uint64_t one = 1;
  if (error_) static_cast<void>(::write(error_.get(), &one, sizeof one));
}

void Queue::publish() {
  if (!started_ || !ring_.has_unpublished() || session_.gone) return;
  const bool tell = ring_.publish();
  inflight_.published(ring_.used_index());
  if (DirtyLog* log = session_.dirty(); log != nullptr && (addresses_.flags & k_vring_log) != 0)
    log->mark(addresses_.log, Ring::used_bytes(size_));
  const uint64_t one = 1;
  if (tell && call_) static_cast<void>(::write(call_.get(), &one, sizeof one));
}

// Completions outside a run are gathered until the loop's next turn.
void Queue::publish_later() {
  if (in_batch_ || std::exchange(publish_posted_, true)) return;
  session_.ground.loop.post([this, alive = alive_] {
    if (!*alive) return;
    publish_posted_ = false;
    publish();
    run();  // there may be room again
    maybe_idle();
  });
}

}  // namespace pv::vhost
