// SPDX-License-Identifier: MIT
// What the requests of a cow disk are made of: pieces for either side, extents of the base; and
// who waits for whom.
#include <algorithm>
#include <cerrno>

#include "blk/cow/disk.hpp"

namespace pv::blk {
namespace {

// A file that may not grow is a disk that is full.
int overlay_error(int error) {
  return error == EFBIG || error == EDQUOT ? ENOSPC : error;
}

}  // namespace

// `length` bytes of a request's data from `skip` on.
void CowDisk::slice(const Request& request, uint64_t skip, uint64_t length,
                    std::vector<iovec>& out) {
  out.clear();
  for (int i = 0; i < request.segments && length != 0; ++i) {
    const iovec& segment = request.data[i];
    if (skip >= segment.iov_len) {
      skip -= segment.iov_len;
      continue;
    }
    const uint64_t n = std::min<uint64_t>(segment.iov_len - skip, length);
    out.push_back({static_cast<char*>(segment.iov_base) + skip, n});
    skip = 0;
    length -= n;
  }
}

// --- map --------------------------------------------------------------------------------------

void CowDisk::map(Request& request) {
  Flight& flight = take(request, nullptr);
  flight.at = request.offset;
  map_on(flight);
}

void CowDisk::map_on(Flight& flight) {
  flight.stepping = true;
  while (map_step(flight)) {
  }
}

// One run of blocks; false when it is over, or goes on when the base has answered.
bool CowDisk::map_step(Flight& flight) {
  constexpr size_t k_max_extents = 4096;
  Request& parent = *flight.parent;
  std::vector<Extent>& out = *parent.extents;
  const uint64_t stop = parent.offset + parent.length, limit = map_->header().base_limit;
  const bool enough = (parent.flags & k_one) != 0 && flight.at != parent.offset;
  if (flight.at == stop || flight.error != 0 || enough || out.size() >= k_max_extents) {
    finish(flight);
    return false;
  }
  const uint64_t first = block_of(flight.at);
  uint64_t next = std::min(stop, map_->run_end(first, last_block_of(parent) + 1) << shift_);
  const BlockState state = map_->state(first);
  if (state != BlockState::absent || flight.at >= limit) {
    out.push_back({next - flight.at, state == BlockState::data ? 0U : k_hole | k_zero});
    flight.at = next;
    return true;
  }
  next = std::min(next, limit);
  flight.extents.clear();
  flight.replied = false;
  Request& child = flight.parts[0];
  make_child(child, parent, &flight, [](Request& done, int error) {
    auto& from = *static_cast<Flight*>(done.owner);
    from.error = error;
    from.replied = true;
    for (const Extent& extent : from.extents) {
      from.parent->extents->push_back(extent);
      from.at += extent.length;
    }
    if (!from.stepping) from.cow->map_on(from);
  });
  child.offset = flight.at;
  child.length = next - flight.at;
  child.extents = &flight.extents;
  child.wire = nullptr;
  lower().submit(child);
  flight.stepping = flight.replied;
  return flight.replied;
}

// --- pieces -----------------------------------------------------------------------------------

CowDisk::Flight& CowDisk::take(Request& request, void (*next)(CowDisk&, Flight&)) {
  Flight& flight = *flights_.take();
  flight.cow = this;
  flight.parent = &request;
  flight.next = next;
  flight.first = flight.end = 0;
  flight.error = 0;
  flight.pending = 0;
  flight.ignore_errors = false;
  return flight;
}

void CowDisk::pass(Request& request) {
  Piece& piece = *pieces_.take();
  piece.cow = this;
  piece.flight = nullptr;
  piece.parent = &request;
  piece.ours = true;
  make_child(piece.child, request, &piece, piece_done);
  piece.child.offset = map_->layout().data_at(request.offset);
  map_->store().disk().submit(piece.child);
}

// Part of `like`, or of its range, to one side.
void CowDisk::piece(Flight& flight, const Request& like, uint64_t offset, uint64_t length,
                    bool ours) {
  Piece& piece = *pieces_.take();
  piece.cow = this;
  piece.flight = &flight;
  piece.ours = ours;
  make_child(piece.child, like, &piece, piece_done);
  piece.child.loan = nullptr;
  piece.child.wire = nullptr;
  piece.child.length = length;
  piece.child.offset = ours ? map_->layout().data_at(offset) : offset;
  if (like.op == Op::read || like.op == Op::write) {
    slice(like, offset - like.offset, length, piece.data);
    piece.child.data = piece.data.data();
    piece.child.segments = static_cast<int>(piece.data.size());
  }
  ++flight.pending;
  (ours ? map_->store().disk() : lower()).submit(piece.child);
}

// [offset, end) to the overlay, in as many pieces as it has there.
void CowDisk::pieces(Flight& flight, const Request& like, uint64_t offset, uint64_t end) {
  while (offset < end) {
    const uint64_t next = std::min(end, map_->layout().contiguous_end(offset));
    piece(flight, like, offset, next - offset, true);
    offset = next;
  }
}

void CowDisk::piece_done(Request& child, int error) {
  auto& piece = *static_cast<Piece*>(child.owner);
  CowDisk& cow = *piece.cow;
  Flight* flight = piece.flight;
  Request* parent = piece.parent;
  if (piece.ours) error = overlay_error(error);
  cow.pieces_.give(&piece);
  if (flight == nullptr) return parent->done(*parent, error);
  cow.arrived(*flight, error);
}

void CowDisk::arrived(Flight& flight, int error) {
  if (error != 0 && !flight.ignore_errors) flight.error = error;
  if (--flight.pending == 0) flight.next(*this, flight);
}

void CowDisk::finish(Flight& flight) {
  Request* parent = flight.parent;
  const int error = overlay_error(flight.error);
  flights_.give(&flight);
  parent->done(*parent, error);
}

// --- who waits for whom -----------------------------------------------------------------------

void CowDisk::hold(Flight& flight, uint64_t first, uint64_t end) {
  flight.first = first;
  flight.end = end;
  holders_.push_back(&flight);
}

bool CowDisk::held(uint64_t first, uint64_t end) const {
  for (const Flight* flight : holders_)
    if (first < flight->end && flight->first < end) return true;
  // Nor may one pass those that wait already.
  for (const Request* request : waiting_)
    if (first <= last_block_of(*request) && block_of(request->offset) < end) return true;
  return false;
}

void CowDisk::release(Flight& flight) {
  if (flight.first == flight.end) return;
  std::erase(holders_, &flight);
  released_ = true;
  if (retrying_ || waiting_.empty()) return;
  retrying_ = true;
  while (std::exchange(released_, false) && !waiting_.empty()) {
    retried_.swap(waiting_);
    for (Request* request : retried_) dispatch(*request);
    retried_.clear();
  }
  retrying_ = false;
}

}  // namespace pv::blk
