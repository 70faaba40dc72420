// SPDX-License-Identifier: MIT
#include "serve/power.hpp"

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/layer/cache_survivors.hpp"

namespace pv::serve {

Result<json> Power::check(const json& request) const {
  if (!parts_.mediated)
    return fail(Code::not_mediated, "the disk is served without a fault layer (--no-fault)");
  TRY(blk::survivors_from(request, parts_.disk.geometry()));
  return json::object();
}

Result<json> Power::freeze(ConnectionId id) {
  if (state_ != State::on) return fail(Code::wrong_state, "another power cut is under way");
  state_ = State::frozen;
  holder_ = id;
  parts_.front.freeze();
  parts_.ops.freeze();
  return json::object();
}

void Power::ended(ConnectionId id) {
  if (state_ != State::frozen || holder_ != id) return;
  state_ = State::on;
  parts_.front.thaw();
  parts_.ops.thaw();
}

void Power::cut(ConnectionId id, json request, Reply reply) {
  if (state_ != State::frozen || holder_ != id)
    return reply(fail(Code::wrong_state, "power.cut: the disk was not frozen before"));
  request["op"] = "power.off";
  auto lost = parts_.disk.control(request);
  volatile_ = lost || lost.error().code != Code::unsupported;
  if (!lost && volatile_) return reply(fail(lost.error()));
  lost_ = lost ? std::move(*lost) : json{{"dropped_bytes", 0}, {"kept_bytes", 0}};
  deadline_ns_ = deadline_ns_of(request);
  state_ = State::off;
  reply_ = std::move(reply);
  parts_.front.hang_up();
  parts_.ops.cut();
  drain();
}

// A layer above may hold requests back for a while (delays, a throttle). Nobody hears what becomes
// of them, but none may arrive once the power is back: until they have all come to their end the
// disk stays off, also when that takes longer than the one who waits for it wants to.
void Power::drain() {
  const uint64_t in_flight = parts_.counters.in_flight() + parts_.ops.in_flight();
  if (in_flight == 0) return come_back();
  if (reply_ && system_clock().now_ns() >= deadline_ns_) {
    (*reply_)(fail(Code::timeout, fmt::format("{} requests in flight do not end in time; its power "
                                              "comes back when they have",
                                              in_flight)));
    reply_.reset();
  }
  parts_.loop.after(k_ns_per_ms, [this] { drain(); });
}

void Power::come_back() {
  if (!volatile_) return back(0);
  static_cast<void>(parts_.disk.control({{"op", "power.on"}}));
  // Also waits for what was on its way below when the power went.
  flush_ = blk::Request{};
  flush_.op = blk::Op::flush;
  flush_.flags = blk::k_internal;
  flush_.owner = this;
  flush_.done = [](blk::Request& request, int error) {
    static_cast<Power*>(request.owner)->back(error);
  };
  parts_.disk.submit(flush_);
}

void Power::back(int error) {
  if (error != 0) {  // survivors that cannot be written have not survived
    static_cast<void>(parts_.disk.control({{"op", "power.off"}, {"survivors", "none"}}));
    static_cast<void>(parts_.disk.control({{"op", "power.on"}}));
  }
  state_ = State::on;
  parts_.front.thaw();
  parts_.ops.thaw();
  const auto reply = std::exchange(reply_, std::nullopt);
  if (!reply) return;
  if (error == 0) return (*reply)(std::move(lost_));
  (*reply)(fail(Code::io,
                fmt::format("what survives could not be written below ({})", errno_name(error)),
                error));
}

}  // namespace pv::serve
