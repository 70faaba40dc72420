// SPDX-License-Identifier: MIT
#include "serve/resize.hpp"

#include <cerrno>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/checked.hpp"

namespace pv::serve {

Result<> Resizer::check(uint64_t size, bool shrink) const {
  blk::Geometry geometry = parts_.disk.geometry();
  if (geometry.read_only) return fail(Code::read_only, "the disk is read-only", EROFS);
  const uint64_t before = geometry.size;
  geometry.size = size;
  TRY(blk::check_geometry(geometry));
  if (size < before && !shrink)
    return fail(Code::invalid,
                fmt::format("{} bytes would cut off the last {} of the disk; --shrink does that",
                            size, before - size));
  return {};
}

void Resizer::resize(const json& request, Reply reply) {
  const uint64_t size = get_u64(request, "size_bytes");
  if (job_) return reply(fail(Code::wrong_state, "another resize is under way"));
  if (auto good = check(size, get_bool(request, "shrink")); !good) return reply(fail(good.error()));
  job_ = Job{size, deadline_ns_of(request), static_cast<pid_t>(get_u64(request, "reconnect_pid")),
             std::move(reply)};
  parts_.front.pause();
  parts_.ops.pause();
  drain();
}

void Resizer::drain() {
  const uint64_t in_flight = parts_.counters.in_flight();
  if (in_flight != 0 || parts_.ops.in_flight() != 0) {
    if (system_clock().now_ns() < job_->deadline_ns) {
      parts_.loop.after(k_ns_per_ms, [this] { drain(); });
      return;
    }
  }
  const Job job = std::move(*job_);
  job_.reset();
  Result<json> result =
      in_flight == 0 && parts_.ops.in_flight() == 0
          ? change(job)
          : fail(Code::timeout, fmt::format("{} requests in flight do not end in time", in_flight));
  parts_.ops.resume();
  parts_.front.resume();
  job.reply(std::move(result));
  tell_waiters();
}

Result<json> Resizer::change(const Job& job) {
  const uint64_t before = parts_.disk.geometry().size;
  if (job.size != before) {
    TRY(parts_.disk.resize(job.size));
    TRY(parts_.save());
  }
  // Also where nothing has changed: an earlier attempt may have come only this far.
  parts_.front.resized(job.reconnect_pid);
  return json{{"size_bytes", job.size}, {"previous_bytes", before}};
}

void Resizer::wait(ControlServer::ConnectionId id, const json& request, Reply reply) {
  const uint64_t size = parts_.disk.geometry().size;
  const uint64_t from = get_u64(request, "from_bytes");
  if (size != from) return reply(json{{"size_bytes", size}});
  waiters_.insert_or_assign(id, Waiter{from, std::move(reply)});
}

void Resizer::tell_waiters() {
  const uint64_t size = parts_.disk.geometry().size;
  for (auto it = waiters_.begin(); it != waiters_.end();) {
    if (it->second.from == size) {
      ++it;
      continue;
    }
    it->second.reply(json{{"size_bytes", size}});
    it = waiters_.erase(it);
  }
}

}  // namespace pv::serve
