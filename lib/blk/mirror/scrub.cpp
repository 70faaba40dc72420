// SPDX-License-Identifier: MIT
#include "blk/mirror/scrub.hpp"

#include <algorithm>

#include "base/json.hpp"

namespace pv::blk {
namespace {

constexpr uint64_t k_tick_ns = 20 * k_ns_per_ms;
constexpr uint64_t k_ticks_per_s = k_ns_per_s / k_tick_ns;
constexpr uint64_t k_met = 1 << 18;  // sectors, 128 MiB of damage
constexpr uint64_t k_sector = 512;
constexpr uint64_t k_scrub_piece = 256 << 10;

}  // namespace

Scrub::Scrub(Disk& disk, const Env& env, uint64_t bytes_per_s)
    : disk_(disk), env_(env), rate_(bytes_per_s) {
  if (rate_ == 0) return;
  buffer_.reset(new char[k_scrub_piece]);
  timer_ = env_.timers.after(k_tick_ns, [this] { tick(); });
}

Scrub::~Scrub() {
  if (timer_ != 0) env_.timers.cancel(timer_);
}

// A tick in which somebody asked for something is not for us.
void Scrub::tick() {
  timer_ = env_.timers.after(k_tick_ns, [this] { tick(); });
  if (!std::exchange(quiet_, true) || running_) return;
  const uint64_t share = std::max<uint64_t>(rate_ / k_ticks_per_s, disk_.geometry().sector_size);
  allowed_ = std::min(allowed_ + share, std::max(share, k_scrub_piece));
  if (allowed_ >= std::min(share, k_scrub_piece)) step();
}

// First what is there, then, where it is no hole, the data.
void Scrub::step() {
  const uint64_t size = disk_.geometry().size;
  if (position_ >= size) {
    position_ = 0;
    ++passes_;
  }
  running_ = true;
  extents_.clear();
  request_ = Request{};
  request_.op = Op::map;
  request_.flags = k_internal | k_one;
  request_.offset = position_;
  request_.length = size - position_;
  request_.extents = &extents_;
  request_.owner = this;
  request_.done = [](Request& request, int error) {
    static_cast<Scrub*>(request.owner)->done(error);
  };
  disk_.submit(request_);
}

void Scrub::done(int error) {
  running_ = false;
  const uint64_t sector = disk_.geometry().sector_size;
  if (request_.op == Op::read) {
    position_ += request_.length;
    bytes_ += request_.length;
    allowed_ -= std::min(allowed_, request_.length);
    return;  // the next tick goes on
  }
  const uint64_t left = disk_.geometry().size - position_;
  uint64_t length = left;
  if (error == 0 && !extents_.empty()) {
    length = std::min(length, extents_.front().length);
    if ((extents_.front().flags & k_zero) != 0) {
      position_ += length;
      return;
    }
  }
  length = std::min({length, k_scrub_piece, std::max(allowed_ / sector * sector, sector)});
  running_ = true;
  piece_ = {buffer_.get(), length};
  request_.op = Op::read;
  request_.flags = k_internal;
  request_.length = length;
  request_.extents = nullptr;
  request_.data = &piece_;
  request_.segments = 1;
  disk_.submit(request_);
}

bool Scrub::is_news(uint64_t offset, uint64_t what) {
  if (rate_ == 0) return true;
  met_.resize(k_met);
  const uint64_t sector = offset / k_sector;
  const uint64_t here = (what ^ (sector + 1) * 0x9e3779b97f4a7c15) | 1;
  return std::exchange(met_[sector % k_met], here) != here;
}

void Scrub::forget(uint64_t begin, uint64_t end) {
  if (met_.empty()) return;
  const uint64_t first = begin / k_sector;
  const uint64_t count = std::min((end + k_sector - 1) / k_sector - first, k_met);
  for (uint64_t i = 0; i < count; ++i) met_[(first + i) % k_met] = 0;
}

json Scrub::shown() const {
  return {
      {"bytes_per_s", rate_}, {"offset_bytes", position_}, {"passes", passes_}, {"bytes", bytes_}};
}

}  // namespace pv::blk
