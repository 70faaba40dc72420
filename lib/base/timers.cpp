// SPDX-License-Identifier: MIT
#include "base/timers.hpp"

namespace pv {

TimerId TimerQueue::add(uint64_t deadline_ns, std::function<void()> callback) {
  const TimerId id = ++last_id_;
  queue_.emplace(std::make_pair(deadline_ns, id), std::move(callback));
  deadlines_.emplace(id, deadline_ns);
  return id;
}

void TimerQueue::cancel(TimerId id) {
  const auto found = deadlines_.find(id);
  if (found == deadlines_.end()) return;
  queue_.erase({found->second, id});
  deadlines_.erase(found);
}

uint64_t TimerQueue::next_deadline() const {
  return queue_.empty() ? UINT64_MAX : queue_.begin()->first.first;
}

void TimerQueue::run_due(uint64_t now_ns) {
  while (!queue_.empty() && queue_.begin()->first.first <= now_ns) {
    auto node = queue_.extract(queue_.begin());
    deadlines_.erase(node.key().second);
    node.mapped()();
  }
}

}  // namespace pv
