// SPDX-License-Identifier: MIT
#include "verify/log/replay.hpp"

#include <algorithm>
#include <fcntl.h>
#include <memory>
#include <vector>

#include <fmt/format.h>

#include "base/text.hpp"
#include "base/units.hpp"
#include "blk/cow/base.hpp"
#include "verify/log/requests.hpp"

namespace pv::verify {
namespace {

using blk::LogKind;
using blk::Op;

constexpr size_t k_slots = 16;            // requests in flight
constexpr uint64_t k_max_zero = 1 << 30;  // bytes zeroed by one request

// Puts changes on a disk, several at a time where they do not overlap.
class Applier {
 public:
  Applier(blk::Disk& disk, Loop& loop) : disk_(disk), loop_(loop) {}
  ~Applier() {
    static_cast<void>(wait_for([&] { return in_flight_ == 0; }));
  }

  Result<> apply(Op op, uint64_t offset, uint64_t length, std::string data) {
    TRY(wait_for([&] { return in_flight_ < k_slots && !busy(offset, length); }));
    if (error_ != 0) return fail_errno("cannot write the image", error_);
    Slot& slot = free_slot();
    slot.data = std::move(data);
    slot.piece = {slot.data.data(), slot.data.size()};
    slot.request = blk::Request{};
    slot.request.op = op;
    slot.request.offset = offset;
    slot.request.length = length;
    slot.request.data = op == Op::write ? &slot.piece : nullptr;
    slot.request.segments = op == Op::write ? 1 : 0;
    slot.request.owner = &slot;
    slot.request.done = [](blk::Request& request, int error) {
      auto& done = *static_cast<Slot*>(request.owner);
      done.busy = false;
      --done.applier->in_flight_;
      if (error != 0 && done.applier->error_ == 0) done.applier->error_ = error;
    };
    slot.busy = true;
    ++in_flight_;
    disk_.submit(slot.request);
    return {};
  }

  Result<> settle() {
    TRY(wait_for([&] { return in_flight_ == 0; }));
    if (error_ != 0) return fail_errno("cannot write the image", error_);
    return {};
  }

 private:
  struct Slot {
    blk::Request request;
    iovec piece{};
    std::string data;
    bool busy = false;
    Applier* applier = nullptr;
  };

  bool busy(uint64_t offset, uint64_t length) const {
    return std::any_of(slots_.begin(), slots_.end(), [&](const auto& slot) {
      return slot->busy && slot->request.offset < offset + length &&
             offset < slot->request.offset + slot->request.length;
    });
  }

  Slot& free_slot() {
    for (const auto& slot : slots_)
      if (!slot->busy) return *slot;
    slots_.push_back(std::make_unique<Slot>());
    slots_.back()->applier = this;
    return *slots_.back();
  }

  template <class Until>
  Result<> wait_for(Until&& until) {
    while (!until()) TRY(loop_.run_once(-1));
    return {};
  }

  blk::Disk& disk_;
  Loop& loop_;
  std::vector<std::unique_ptr<Slot>> slots_;
  size_t in_flight_ = 0;
  int error_ = 0;
};

struct Bounds {
  uint64_t after = 0, to = 0;
  uint64_t size = 0;  // of the disk where it begins
  blk::LogEnd end;
};

std::string point_text(const LogPoint& point) {
  return point.mark.empty() ? std::to_string(point.n) : "mark '" + point.mark + "'";
}

// The whole log is looked at before anything is changed: both points must be there.
Result<Bounds> find_bounds(const std::string& path, const ReplayPlan& plan) {
  TRY_ASSIGN(blk::LogReader log, blk::LogReader::open(path));
  Bounds bounds;
  bounds.size = log.head().size;
  bool to_found = !plan.to.given(), from_found = !plan.from.given();
  const auto is_at = [&](const LogPoint& point, const blk::LogEntry& entry) {
    if (!point.mark.empty()) return entry.kind == LogKind::mark && log.data() == point.mark;
    return entry.n == point.n;
  };
  while (true) {
    TRY_ASSIGN(const std::optional<blk::LogEntry> entry, log.next());
    if (!entry) break;
    if (entry->kind == LogKind::done) continue;
    if (from_found && !to_found && is_at(plan.to, *entry)) {
      to_found = true;
      bounds.to = entry->n;
    }
    if (!from_found && entry->kind == LogKind::resize) bounds.size = entry->length;
    if (!from_found && is_at(plan.from, *entry)) {
      from_found = true;
      bounds.after = entry->n;
    }
  }
  if (!plan.to.given()) bounds.to = log.last();
  TRY_ASSIGN(bounds.end, log.end());
  const auto missing = [&](const LogPoint& point) {
    return fail(
        Code::invalid,
        fmt::format(
            "{} is not in the log{}: its last request is {}", point_text(point),
            &point == &plan.to && plan.from.given() ? " after " + point_text(plan.from) : "",
            log.last()));
  };
  if (!from_found) return missing(plan.from);
  if (!to_found) return missing(plan.to);
  return bounds;
}

Result<> check_disk(const blk::LogHead& head, blk::Disk& disk, Loop& loop, const ReplayPlan& plan,
                    uint64_t size) {
  if (disk.geometry().read_only) return fail(Code::read_only, "the image is read-only");
  if (plan.force) return {};
  const uint64_t now = disk.geometry().size;
  if (head.size != 0 && now != size)
    return fail(Code::incompatible,
                fmt::format("the log is of a disk of {} bytes and the image has {} (--force "
                            "replays what fits)",
                            size, now));
  if (head.disk != blk::DiskId{} && disk.geometry().id != blk::DiskId{} &&
      head.disk != disk.geometry().id)
    return fail(Code::incompatible, "the log is of a disk with another id (--force replays it)");
  if (!head.knows_edges || plan.from.given()) return {};
  TRY_ASSIGN(const blk::BaseIdentity identity, blk::look_at_base(disk, &loop));
  if (identity.edges == head.edges) return {};
  return fail(Code::incompatible,
              "the image is not what the disk was when the log began: its first or last 64 KiB "
              "differ (--from for one that was replayed already, --force for any)");
}

class Replay {
 public:
  Replay(blk::LogReader log, blk::Disk& disk, Loop& loop)
      : requests_(std::move(log)), disk_(disk), apply_(disk, loop) {}

  Result<Replayed> run(const Bounds& bounds) {
    out_.end = bounds.end;
    while (true) {
      TRY_ASSIGN(const std::optional<Logged> request, requests_.next());
      if (!request || request->entry.n > bounds.to) break;
      if (request->entry.n <= bounds.after) continue;
      if (out_.first == 0) out_.first = request->entry.n;
      out_.last = request->entry.n;
      ++out_.requests;
      TRY(one(*request));
    }
    TRY(apply_.settle());
    TRY(apply_.apply(Op::flush, 0, 0, {}));
    TRY(apply_.settle());
    return out_;
  }

 private:
  Result<> one(const Logged& request) {
    const blk::LogEntry& entry = request.entry;
    if (request.fate == Logged::pending) ++out_.pending;
    if (request.fate == Logged::failed) ++out_.failed;
    if (request.fate != Logged::done) return {};
    if (entry.kind == LogKind::session && (entry.flags & blk::k_log_gap) != 0) ++out_.gaps;
    if (entry.kind == LogKind::resize) {
      TRY(apply_.settle());
      return disk_.geometry().size == entry.length ? Result<>() : disk_.resize(entry.length);
    }
    if (entry.kind == LogKind::write) {
      std::string data(entry.data_len, '\0');
      TRY(requests_.reader().read(request.data_at, data.data(), data.size()));
      out_.written_bytes += entry.length;
      return fits(entry, [&] {
        return apply_.apply(Op::write, entry.offset, entry.length, std::move(data));
      });
    }
    const bool ignored = entry.kind == LogKind::discard &&
                         requests_.reader().head().discard == blk::DiscardBehaviour::ignored;
    if (ignored) ++out_.ignored;
    if (ignored || (entry.kind != LogKind::zero && entry.kind != LogKind::discard)) return {};
    out_.zeroed_bytes += entry.length;
    return fits(entry, [&] { return zero(entry.offset, entry.length); });
  }

  // What was discarded may read as zeroes on every disk that obeys.
  Result<> zero(uint64_t offset, uint64_t length) {
    for (uint64_t at = 0; at < length; at += k_max_zero)
      TRY(apply_.apply(Op::zero, offset + at, std::min(length - at, k_max_zero), {}));
    return {};
  }

  template <class Apply>
  Result<> fits(const blk::LogEntry& entry, Apply&& apply) {
    const uint64_t size = disk_.geometry().size;
    if (entry.offset <= size && entry.length <= size - entry.offset) return apply();
    return fail(Code::out_of_range,
                fmt::format("request {} of the log is at {}+{}, and the image has {} bytes",
                            entry.n, entry.offset, entry.length, size));
  }

  LogRequests requests_;
  blk::Disk& disk_;
  Applier apply_;
  Replayed out_;
};

}  // namespace

LogPoint LogPoint::parse(const std::string& text) {
  const auto n = parse_count("a request", text);
  return n && *n != 0 ? LogPoint{*n, ""} : LogPoint{0, text};
}

Result<Replayed> replay(const std::string& log, blk::Disk& disk, Loop& loop,
                        const ReplayPlan& plan) {
  TRY_ASSIGN(const Bounds bounds, find_bounds(log, plan));
  TRY_ASSIGN(blk::LogReader reader, blk::LogReader::open(log));
  TRY(check_disk(reader.head(), disk, loop, plan, bounds.size));
  return Replay(std::move(reader), disk, loop).run(bounds);
}

}  // namespace pv::verify
