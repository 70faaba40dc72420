// SPDX-License-Identifier: MIT
#include "serve/snap_copy.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.hpp"

namespace pv::serve {
namespace {

constexpr uint64_t k_turn = 32 << 20;  // bytes until others get a turn
constexpr uint64_t k_piece = 1 << 20, k_page = 4096;
constexpr uint64_t k_map_span = 1 << 30;

}  // namespace

std::shared_ptr<SnapCopy> SnapCopy::of_file(Loop& loop, int from, int to, Done done) {
  std::shared_ptr<SnapCopy> copy(new SnapCopy(loop, to, std::move(done)));
  copy->from_ = from;
  return copy;
}

std::shared_ptr<SnapCopy> SnapCopy::of_disk(Loop& loop, blk::Disk& from, int to, Done done) {
  std::shared_ptr<SnapCopy> copy(new SnapCopy(loop, to, std::move(done)));
  copy->disk_ = &from;
  copy->size_ = from.geometry().size;
  return copy;
}

void SnapCopy::start() {
  const std::shared_ptr<SnapCopy> stays = shared_from_this();
  if (disk_ == nullptr) {
    struct stat st {};
    if (ioctl(to_, FICLONE, from_) == 0) return finish({});
    if (fstat(from_, &st) < 0) return finish(fail_errno("cannot stat the image", errno));
    size_ = static_cast<uint64_t>(st.st_size);
  }
  if (ftruncate(to_, static_cast<off_t>(size_)) < 0)
    return finish(fail_errno("cannot size the snapshot of a disk", errno));
  go_on();
}

// Step by step, until it has to wait, is done, or others are to have their turn.
void SnapCopy::go_on() {
  const std::shared_ptr<SnapCopy> stays = std::move(self_);
  while (done_) {
    if (moved_ >= k_turn) return rest();
    const Result<bool> more = disk_ != nullptr ? disk_step() : file_step();
    if (!more) return finish(fail(more.error()));
    if (!*more) return;
  }
}

void SnapCopy::rest() {
  moved_ = 0;
  self_ = shared_from_this();
  loop_.after(0, [copy = this] { copy->go_on(); });
}

void SnapCopy::finish(Result<> result) {
  if (const Done done = std::exchange(done_, nullptr)) done(std::move(result));
}

// False when it is over.
Result<bool> SnapCopy::file_step() {
  const auto at = static_cast<off_t>(at_), size = static_cast<off_t>(size_);
  off_t data = at < size ? lseek(from_, at, SEEK_DATA) : -1;
  if (at >= size || (data < 0 && errno == ENXIO)) {
    finish({});
    return false;
  }
  off_t hole = data < 0 ? size : lseek(from_, data, SEEK_HOLE);
  if (data < 0) data = at;  // a file system without SEEK_DATA: all is data
  if (hole < 0) hole = size;
  const off_t end = std::min(hole, data + static_cast<off_t>(k_turn));
  TRY(copy_range(from_, to_, data, end));
  moved_ += static_cast<uint64_t>(end - data);
  at_ = static_cast<uint64_t>(end);
  return true;
}

// True when the answer is there.
bool SnapCopy::submit() {
  request_.flags |= blk::k_internal;
  request_.owner = this;
  request_.done = [](blk::Request& request, int error) {
    auto& copy = *static_cast<SnapCopy*>(request.owner);
    copy.answered_ = true;
    copy.error_ = error;
    if (!copy.submitting_) copy.go_on();
  };
  answered_ = false;
  self_ = shared_from_this();
  submitting_ = true;
  disk_->submit(request_);
  submitting_ = false;
  return answered_;
}

bool SnapCopy::ask_map() {
  extents_.clear();
  extent_ = 0;
  extent_at_ = 0;
  request_ = blk::Request{};
  request_.op = blk::Op::map;
  request_.offset = at_;
  request_.length = std::min(size_ - at_, k_map_span);
  request_.extents = &extents_;
  return submit();
}

bool SnapCopy::read_piece() {
  const uint64_t length = std::min(extents_[extent_].length - extent_at_, k_piece);
  piece_.resize(k_piece);
  segment_ = {piece_.data(), length};
  request_ = blk::Request{};
  request_.op = blk::Op::read;
  request_.offset = at_;
  request_.length = length;
  request_.data = &segment_;
  request_.segments = 1;
  reading_ = true;
  return submit();
}

Result<> SnapCopy::write_piece() {
  const auto zero = [](const char* from, const char* to) {
    return std::all_of(from, to, [](char c) { return c == 0; });
  };
  for (uint64_t from = 0; from < segment_.iov_len;) {
    const uint64_t page = std::min(k_page, segment_.iov_len - from);
    uint64_t to = from + page;
    if (zero(piece_.data() + from, piece_.data() + to)) {
      from = to;
      continue;
    }
    while (to < segment_.iov_len &&
           !zero(piece_.data() + to, piece_.data() + std::min(to + k_page, segment_.iov_len)))
      to = std::min(to + k_page, segment_.iov_len);
    while (from < to) {
      const ssize_t n =
          pwrite(to_, piece_.data() + from, to - from, static_cast<off_t>(at_ + from));
      if (n <= 0) return fail_errno("cannot write the snapshot of a disk", n < 0 ? errno : ENOSPC);
      from += static_cast<uint64_t>(n);
    }
  }
  return {};
}

// False when it is over, or goes on when the disk has answered.
Result<bool> SnapCopy::disk_step() {
  if (std::exchange(answered_, false)) {
    self_.reset();
    if (error_ != 0) return fail_errno("cannot read the disk for its snapshot", error_);
    if (std::exchange(reading_, false)) {
      TRY(write_piece());
      at_ += segment_.iov_len;
      extent_at_ += segment_.iov_len;
      moved_ += segment_.iov_len;
    } else if (extents_.empty()) {
      return fail(Code::io, "cannot read the disk for its snapshot: it has no extents");
    }
  }
  while (extent_ < extents_.size()) {
    const blk::Extent& extent = extents_[extent_];
    if ((extent.flags & blk::k_zero) == 0 && extent_at_ < extent.length) return read_piece();
    at_ += extent.length - extent_at_;
    extent_at_ = 0;
    ++extent_;
  }
  if (at_ < size_) return ask_map();
  finish({});
  return false;
}

}  // namespace pv::serve
