// SPDX-License-Identifier: MIT
#include "verify/log/requests.hpp"

#include <algorithm>
#include <iterator>
#include <map>

namespace pv::verify {
namespace {

using blk::LogEntry;
using blk::LogKind;

// What is over with its one entry.
bool is_event(LogKind kind) {
  return kind == LogKind::mark || kind == LogKind::resize || kind == LogKind::session;
}

Logged submission(const blk::LogReader& reader, const LogEntry& entry) {
  Logged logged;
  logged.entry = entry;
  logged.data_at = reader.data_at();
  if (entry.kind == LogKind::mark) logged.mark = reader.data();
  if (is_event(entry.kind)) logged.fate = Logged::done;
  return logged;
}

void complete(Logged& logged, const LogEntry& done, uint64_t order) {
  logged.fate = done.detail == 0 ? Logged::done : Logged::failed;
  logged.error = static_cast<int>(done.detail);
  logged.done_ns = done.t_ns;
  logged.done_order = order;
}

// Stretches of the disk, joined where they meet.
class Stretches {
 public:
  bool overlap(const LogEntry& entry) const {
    const auto after = ends_.lower_bound(entry.offset + entry.length);
    return after != ends_.begin() && std::prev(after)->second > entry.offset;
  }
  void add(const LogEntry& entry) {
    uint64_t from = entry.offset, to = entry.offset + entry.length;
    auto at = ends_.upper_bound(to);
    while (at != ends_.begin() && std::prev(at)->second >= from) {
      --at;
      from = std::min(from, at->first);
      to = std::max(to, at->second);
      at = ends_.erase(at);
    }
    ends_[from] = to;
  }

 private:
  std::map<uint64_t, uint64_t> ends_;  // by their beginnings
};

}  // namespace

Result<std::optional<Logged>> LogRequests::next() {
  while (open_.empty() || (open_.front().fate == Logged::pending && !ended_)) {
    if (ended_) return std::nullopt;
    TRY_ASSIGN(const bool more, read_one());
    ended_ = !more;
  }
  Logged first = std::move(open_.front());
  open_.pop_front();
  return first;
}

Result<bool> LogRequests::read_one() {
  TRY_ASSIGN(const std::optional<LogEntry> entry, reader_.next());
  if (!entry) return false;
  if (entry->kind != LogKind::done) {
    open_.push_back(submission(reader_, *entry));
    return true;
  }
  ++completions_;
  // One that completes twice has been given out, or keeps its first end.
  if (open_.empty() || entry->n < open_.front().entry.n) return true;
  Logged& logged = open_[entry->n - open_.front().entry.n];
  if (logged.fate == Logged::pending) complete(logged, *entry, completions_);
  return true;
}

Result<std::optional<Logged>> LastingRequests::next() {
  while (ready_.empty() && !ended_) {
    TRY_ASSIGN(const std::optional<LogEntry> entry, reader_.next());
    if (!entry) {
      ended_ = true;
      left_out_ += in_flight_.size() + flushes_.size();
      for (Flush& flush : flushes_) lasts(flush.covered);
      lasts(unflushed_);
    } else if (entry->kind == LogKind::done) {
      completed(*entry);
    } else {
      submitted(*entry);
    }
  }
  if (ready_.empty()) return std::nullopt;
  Logged first = std::move(ready_.front());
  ready_.pop_front();
  return first;
}

void LastingRequests::submitted(const LogEntry& entry) {
  Logged logged = submission(reader_, entry);
  if (is_event(entry.kind)) {
    ready_.push_back(std::move(logged));
  } else if (entry.kind == LogKind::flush) {
    flushes_.push_back({std::move(logged), {}});
    flushes_.back().covered.swap(unflushed_);
  } else {
    in_flight_.push_back(std::move(logged));
  }
}

void LastingRequests::lasts(Run& run) {
  ready_.splice(ready_.end(), run);
}

// What the request lies over goes before it, and what lies below that before that: from the newest
// back, each that overlaps one that goes goes too.
void LastingRequests::lasts_before(const LogEntry& fua) {
  Stretches going;
  going.add(fua);
  Run older;
  const auto pick = [&](Run& run) {
    for (auto one = run.end(); one != run.begin();) {
      const auto here = std::prev(one);
      if (!going.overlap(here->entry)) {
        one = here;
        continue;
      }
      going.add(here->entry);
      older.splice(older.begin(), run, here);
    }
  };
  pick(unflushed_);
  for (auto flush = flushes_.rbegin(); flush != flushes_.rend(); ++flush) pick(flush->covered);
  lasts(older);
}

void LastingRequests::completed(const LogEntry& done) {
  ++completions_;
  const auto flush = std::find_if(flushes_.begin(), flushes_.end(),
                                  [&](const Flush& f) { return f.flush.entry.n == done.n; });
  if (flush != flushes_.end()) {
    complete(flush->flush, done, completions_);
    if (flush->flush.fate == Logged::done) {
      lasts(flush->covered);
      ready_.push_back(std::move(flush->flush));
    } else {  // it has promised nothing
      unflushed_.splice(unflushed_.begin(), flush->covered);
      ++left_out_;
    }
    flushes_.erase(flush);
    return;
  }
  const auto one = std::find_if(in_flight_.begin(), in_flight_.end(),
                                [&](const Logged& l) { return l.entry.n == done.n; });
  if (one == in_flight_.end()) return;
  complete(*one, done, completions_);
  if (one->fate == Logged::failed) {
    in_flight_.erase(one);
    ++left_out_;
  } else if ((one->entry.flags & blk::k_log_fua) != 0) {
    lasts_before(one->entry);
    ready_.splice(ready_.end(), in_flight_, one);
  } else {
    unflushed_.splice(unflushed_.end(), in_flight_, one);
  }
}

}  // namespace pv::verify
