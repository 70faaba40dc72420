// SPDX-License-Identifier: MIT
#include "blk/record/writer.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <unistd.h>
#include <utility>

#include <climits>

#include "base/loop.hpp"
#include "blk/segments.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace pv::blk {
namespace {

constexpr uint64_t k_idle_ns = 50 * k_ns_per_ms;  // so long a piece may wait to become full

uint64_t hash_of(const Request& request) {
  if (request.segments == 1) return XXH3_64bits(request.data->iov_base, request.length);
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  each_segment(request, 0, request.length,
               [&](const char* data, size_t n) { XXH3_64bits_update(&state, data, n); });
  return XXH3_64bits_digest(&state);
}

}  // namespace

LogWriter::LogWriter(Parts parts, const Env& env, AsyncIo& io, std::function<void()> on_progress)
    : parts_(std::move(parts)),
      env_(env),
      io_(io),
      on_progress_(std::move(on_progress)),
      end_(parts_.end),
      written_(parts_.end) {
  call_.kind = AsyncCall::writev;
  call_.fd = parts_.fd.get();
  call_.owner = this;
  call_.done = [](AsyncCall& call, int64_t result) {
    static_cast<LogWriter*>(call.owner)->called(result);
  };
}

LogWriter::~LogWriter() {
  env_.timers.cancel(timer_);
  on_progress_ = nullptr;
  write_now();
  // The memory belongs to the call as long as it lasts. The loop may have been stopped by now.
  closing_ = true;
  while (calling_ && env_.loop != nullptr && env_.loop->run()) continue;
  if (error_ != 0) return;
  parts_.head.state = LogHead::closed;
  parts_.head.end = end_;
  save_head();
}

void LogWriter::set_last_edges(uint64_t edges) {
  parts_.head.last_edges = edges;
  parts_.head.knows_last_edges = true;
}

void LogWriter::add(LogEntry& entry, const Request& request) {
  if (error_ != 0) return;
  entry.data_len = request.op == Op::write ? static_cast<uint32_t>(request.length) : 0;
  entry.hash = entry.data_len == 0 ? 0 : hash_of(request);
  put_head_of(entry);
  if (entry.data_len != 0)
    each_segment(request, 0, request.length, [&](const char* data, size_t n) { put(data, n); });
  pad();
}

void LogWriter::add(LogEntry& entry, std::string_view data) {
  if (error_ != 0) return;
  entry.data_len = static_cast<uint32_t>(data.size());
  entry.hash = data.empty() ? 0 : log_hash(data);
  put_head_of(entry);
  put(data.data(), data.size());
  pad();
}

void LogWriter::put_head_of(LogEntry& entry) {
  char head[k_log_entry];
  encode_log_entry(entry, parts_.head.id, end_, head);
  put(head, sizeof head);
}

void LogWriter::put(const char* bytes, size_t count) {
  while (count != 0) {
    if (pieces_.empty() || pieces_.back().closed || pieces_.back().used == k_piece) {
      Piece& piece = pieces_.emplace_back();
      piece.at = end_;
      if (free_.empty()) {
        piece.bytes.reset(new char[k_piece]);
      } else {
        piece.bytes = std::move(free_.back());
        free_.pop_back();
      }
    }
    Piece& piece = pieces_.back();
    const size_t n = std::min(count, k_piece - piece.used);
    std::memcpy(piece.bytes.get() + piece.used, bytes, n);
    piece.used += n;
    end_ += n;
    bytes += n;
    count -= n;
  }
}

// Up to the next entry; then it is time to write what is full, or to see to it that the rest does
// not wait for ever.
void LogWriter::pad() {
  constexpr char k_zeroes[8] = {};
  put(k_zeroes, (8 - end_ % 8) % 8);
  if (pieces_.size() > 1) start();
  if (timer_ != 0) return;
  timer_ = env_.timers.after(k_idle_ns, [this] {
    timer_ = 0;
    push();
  });
}

void LogWriter::push() {
  pushed_ = true;
  start();
}

// What is in memory and not in the file. The last piece counts when it is full, or `partial`.
std::vector<iovec> LogWriter::unwritten(bool partial) const {
  std::vector<iovec> data;
  for (const Piece& piece : pieces_) {
    if (!partial && !piece.closed && piece.used != k_piece) break;
    const uint64_t skip = std::min<uint64_t>(written_ - std::min(written_, piece.at), piece.used);
    if (skip != piece.used) data.push_back({piece.bytes.get() + skip, piece.used - skip});
  }
  return data;
}

void LogWriter::start() {
  if (calling_ || error_ != 0) return;
  if (std::exchange(pushed_, false) && !pieces_.empty()) pieces_.back().closed = true;
  data_ = unwritten(false);
  if (data_.empty()) return;
  call_.data = data_.data();
  call_.segments = static_cast<int>(data_.size());
  call_.offset = written_;
  calling_ = true;
  io_.start(call_);
}

void LogWriter::called(int64_t result) {
  calling_ = false;
  if (closing_) return env_.loop->stop();
  if (error_ != 0) return pieces_.clear();
  if (result == -EINTR || result == -EAGAIN) return push();
  if (result <= 0) return break_off(result < 0 ? static_cast<int>(-result) : EIO);
  written_ = std::max(written_, call_.offset + static_cast<uint64_t>(result));
  forget_written();
  start();  // the rest of what was cut short is first: or what is wrong with it
  if (on_progress_) on_progress_();
}

void LogWriter::forget_written() {
  while (!calling_ && !pieces_.empty() && pieces_.front().at + pieces_.front().used <= written_) {
    if (free_.size() < k_pieces) free_.push_back(std::move(pieces_.front().bytes));
    pieces_.pop_front();
  }
}

// A call that is under way writes the same bytes to the same place.
void LogWriter::write_now() {
  if (error_ != 0) return;
  for (const iovec& piece : unwritten(true)) {
    const char* bytes = static_cast<const char*>(piece.iov_base);
    for (size_t left = piece.iov_len; left != 0;) {
      const ssize_t n = pwrite(parts_.fd.get(), bytes, left, static_cast<off_t>(written_));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return break_off(n < 0 ? errno : EIO);
      bytes += n;
      left -= static_cast<size_t>(n);
      written_ += static_cast<uint64_t>(n);
    }
  }
  forget_written();
  if (on_progress_) on_progress_();
}

void LogWriter::break_off(int error) {
  if (error_ != 0) return;
  error_ = error;
  if (!calling_) pieces_.clear();
  parts_.head.state = LogHead::broken;
  parts_.head.error = static_cast<uint32_t>(error);
  parts_.head.knows_last_edges = false;
  save_head();
  if (on_progress_) on_progress_();
}

// The room for it is there since the file was made.
void LogWriter::save_head() {
  char bytes[k_log_head];
  encode_log_head(parts_.head, bytes);
  [[maybe_unused]] const ssize_t n = pwrite(parts_.fd.get(), bytes, sizeof bytes, 0);
}

}  // namespace pv::blk
