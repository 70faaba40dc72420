// SPDX-License-Identifier: MIT
#include "blk/cow/disk.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/state.hpp"

namespace pv::blk {
namespace {

void clear(const std::vector<iovec>& data) {
  for (const iovec& piece : data) std::memset(piece.iov_base, 0, piece.iov_len);
}

// What an overlay makes of its base.
Geometry above(Geometry geometry, const CowMap& map) {
  const CowHeader& header = map.header();
  geometry.size = header.size;
  geometry.read_only = map.store().read_only();
  geometry.fua = true;
  geometry.discard = DiscardBehaviour::zeroes;
  geometry.discard_granularity = header.block;
  return geometry;
}

}  // namespace

CowDisk::CowDisk(std::unique_ptr<Disk> base, std::unique_ptr<CowMap> map)
    : Forward(std::move(base)),
      geometry_(above(lower().geometry(), *map)),
      map_(std::move(map)),
      shift_(std::countr_zero(map_->header().block)) {}

void CowDisk::submit(Request& request) {
  switch (request.op) {
    case Op::read:
      return read(request);
    case Op::write:
      return dispatch(request);
    case Op::discard:
    case Op::zero:
      return zero(request);
    case Op::flush:
      return flush(request);
    case Op::map:
      return map(request);
    case Op::cache:
      return request.done(request, 0);  // advice; the blocks may be on either side
  }
}

Result<> CowDisk::resize(uint64_t size) {
  if (geometry_.read_only) return fail(Code::read_only, "the overlay is only read");
  if (size == 0 || size % geometry_.sector_size != 0)
    return fail(Code::invalid, fmt::format("{} bytes is not a number of sectors of {}", size,
                                           geometry_.sector_size));
  TRY(map_->resize(size));
  geometry_.size = size;
  return {};
}

Result<json> CowDisk::control(const json& request) {
  if (get_string(request, "op") == "base.identity")
    return fail(Code::unsupported, "an overlay is known by its content only");
  if (get_string(request, "op") == "state.busy")
    return json{{"busy", flights_.in_use() + pieces_.in_use()}};  // nothing goes on below but ours
  return lower().control(request);
}

Result<> CowDisk::save_state(StateOut& out) {
  const CowStore& store = map_->store();
  TRY_ASSIGN(const bool on_its_base, out.overlay({store.fd(), store.read_only(), store.temporary(),
                                                  [this](int copy) { return map_->seal(copy); }}));
  return on_its_base ? lower().save_state(out) : out.content(*this, -1);
}

void CowDisk::inspect(json& out) const {
  const CowHeader& header = map_->header();
  out["cow"] = {{"overlay", map_->store().temporary() ? json(nullptr) : json(map_->store().name())},
                {"block_bytes", header.block},
                {"base_bytes", header.base_limit},
                {"data_bytes", map_->data_blocks() * header.block},
                {"zero_bytes", map_->zero_blocks() * header.block},
                {"copied_bytes", copied_bytes_},
                {"waits", waits_},
                {"commits", map_->commits()}};
  lower().inspect(out);
}

// --- read -------------------------------------------------------------------------------------

void CowDisk::read(Request& request) {
  const uint64_t first = block_of(request.offset), end = last_block_of(request) + 1;
  const uint64_t stop = request.offset + request.length;
  if (map_->run_end(first, end) != end) return read_in_pieces(request);
  switch (map_->state(first)) {
    case BlockState::data:
      if (stop > map_->layout().contiguous_end(request.offset)) break;
      return pass(request);
    case BlockState::absent:
      if (stop > map_->header().base_limit) break;
      return lower().submit(request);
    case BlockState::zero:
      for (int i = 0; i < request.segments; ++i)
        std::memset(request.data[i].iov_base, 0, request.data[i].iov_len);
      return request.done(request, 0);
  }
  read_in_pieces(request);
}

void CowDisk::read_in_pieces(Request& request) {
  Flight& flight = take(request, [](CowDisk& cow, Flight& done) { cow.finish(done); });
  const uint64_t stop = request.offset + request.length;
  const uint64_t limit = map_->header().base_limit;
  const uint64_t end = last_block_of(request) + 1;
  flight.pending = 1;
  for (uint64_t at = request.offset; at < stop;) {
    const uint64_t first = block_of(at);
    const uint64_t next = std::min(stop, map_->run_end(first, end) << shift_);
    const BlockState state = map_->state(first);
    const uint64_t from_base = state == BlockState::absent ? std::clamp(limit, at, next) : at;
    if (state == BlockState::data) {
      pieces(flight, request, at, next);
    } else {
      if (from_base > at) piece(flight, request, at, from_base - at, false);
      if (next > from_base) {
        slice(request, from_base - request.offset, next - from_base, flight.assembled);
        clear(flight.assembled);
      }
    }
    at = next;
  }
  arrived(flight, 0);
}

// --- write ------------------------------------------------------------------------------------

void CowDisk::dispatch(Request& request) {
  const uint64_t first = block_of(request.offset), end = last_block_of(request) + 1;
  if (!(holders_.empty() && waiting_.empty()) && held(first, end)) {
    ++waits_;
    waiting_.push_back(&request);
    return;
  }
  if (request.op == Op::write) return write(request, first, end);
  zero_blocks(request, first, end);
}

void CowDisk::write(Request& request, uint64_t first, uint64_t end) {
  const uint64_t stop = request.offset + request.length;
  const bool ours = map_->state(first) == BlockState::data && map_->run_end(first, end) == end;
  const bool settled = (request.flags & k_fua) == 0 || map_->settled(first, end);
  if (ours && settled && stop <= map_->layout().contiguous_end(request.offset))
    return pass(request);
  Flight& flight = take(request, write_filled);
  if (!ours) hold(flight, first, end);
  flight.head.clear();
  flight.tail.clear();
  flight.pending = 1;
  if (map_->state(first) != BlockState::data)
    fill(flight, first << shift_, request.offset, flight.head);
  if (map_->state(end - 1) != BlockState::data) fill(flight, stop, block_end(end - 1), flight.tail);
  arrived(flight, 0);
}

// What stands in [from, to), part of one block that is not ours yet.
void CowDisk::fill(Flight& flight, uint64_t from, uint64_t to, std::vector<char>& bytes) {
  if (from >= to) return;
  bytes.assign(to - from, 0);
  const uint64_t limit = std::min(to, map_->header().base_limit);
  if (map_->state(block_of(from)) != BlockState::absent || from >= limit) return;
  copied_bytes_ += limit - from;
  const iovec into{bytes.data(), limit - from};
  Request like;
  like.op = Op::read;
  like.flags = k_internal;
  like.offset = from;
  like.length = limit - from;
  like.data = &into;
  like.segments = 1;
  like.front = flight.parent->front;
  piece(flight, like, from, limit - from, false);
}

void CowDisk::write_filled(CowDisk& cow, Flight& flight) {
  if (flight.error != 0) return written(cow, flight);
  const Request& parent = *flight.parent;
  flight.assembled.clear();
  if (!flight.head.empty()) flight.assembled.push_back({flight.head.data(), flight.head.size()});
  flight.assembled.insert(flight.assembled.end(), parent.data, parent.data + parent.segments);
  if (!flight.tail.empty()) flight.assembled.push_back({flight.tail.data(), flight.tail.size()});
  Request like = parent;
  like.flags &= ~static_cast<uint32_t>(k_fua);
  like.offset = parent.offset - flight.head.size();
  like.length = flight.head.size() + parent.length + flight.tail.size();
  like.data = flight.assembled.data();
  like.segments = static_cast<int>(flight.assembled.size());
  flight.next = written;
  flight.pending = 1;
  cow.pieces(flight, like, like.offset, like.offset + like.length);
  cow.arrived(flight, 0);
}

void CowDisk::written(CowDisk& cow, Flight& flight) {
  cow.changed(flight, BlockState::data);
}

// The end of every change: mark the blocks, let go of them, and see to it that FUA is kept.
void CowDisk::changed(Flight& flight, BlockState state) {
  if (flight.error == 0) map_->set(flight.first, flight.end, state);
  release(flight);
  if (flight.error == 0 && (flight.parent->flags & k_fua) != 0) {
    flight.waiter.owner = &flight;
    flight.waiter.done = [](void* owner, int error) {
      auto& done = *static_cast<Flight*>(owner);
      done.error = error;
      done.cow->finish(done);
    };
    return map_->commit(flight.waiter);
  }
  finish(flight);
}

// --- zero and discard -------------------------------------------------------------------------

// Whether a block that is not written reads as zeroes already.
bool CowDisk::reads_zero(uint64_t block) const {
  const BlockState state = map_->state(block);
  return state == BlockState::zero ||
         (state == BlockState::absent && block << shift_ >= map_->header().base_limit);
}

// Edges that are not whole blocks are written, the blocks between them are marked.
void CowDisk::zero(Request& request) {
  static const std::vector<char> zeroes(k_cow_max_block);
  const uint64_t block = geometry_.discard_granularity;
  const uint64_t from = request.offset, to = from + request.length;
  uint64_t begin = std::min(to, (from + block - 1) & ~(block - 1));
  uint64_t stop = to == geometry_.size ? to : to & ~(block - 1);
  if (begin == from && stop == to) return dispatch(request);
  if (stop < begin) stop = begin = to;  // inside one block
  Flight& flight = take(request, [](CowDisk& cow, Flight& done) { cow.finish(done); });
  const std::pair<uint64_t, uint64_t> ranges[3] = {{from, begin}, {stop, to}, {begin, stop}};
  flight.pending = 1;
  for (int i = 0; i < 3; ++i) {
    const auto [at, end] = ranges[i];
    const bool keep = (request.flags & (k_no_unmap | k_fua)) != 0;
    if (at == end || (i < 2 && !keep && reads_zero(block_of(at)) && holders_.empty())) continue;
    Request& part = flight.parts[i];
    make_child(part, request, &flight, [](Request& done, int error) {
      auto& whole = *static_cast<Flight*>(done.owner);
      whole.cow->arrived(whole, error);
    });
    part.offset = at;
    part.length = end - at;
    part.wire = nullptr;
    if (i < 2) {
      flight.edges[i] = {const_cast<char*>(zeroes.data()), part.length};
      part.op = Op::write;
      part.flags &= ~static_cast<uint32_t>(k_no_unmap);
      part.data = &flight.edges[i];
      part.segments = 1;
    }
    ++flight.pending;
    dispatch(part);
  }
  arrived(flight, 0);
}

void CowDisk::zero_blocks(Request& request, uint64_t first, uint64_t end) {
  const bool keep = request.op == Op::zero && (request.flags & k_no_unmap) != 0;
  const bool same = map_->run_end(first, end) == end;
  Flight& flight = take(request, nullptr);
  if (!keep && same && reads_zero(first)) return changed(flight, BlockState::zero);
  hold(flight, first, end);
  flight.next = [](CowDisk& cow, Flight& done) {
    const bool kept = done.parent->op == Op::zero && (done.parent->flags & k_no_unmap) != 0;
    cow.changed(done, kept ? BlockState::data : BlockState::zero);
  };
  flight.pending = 1;
  // That the room is given back is a courtesy: the map decides what is read.
  flight.ignore_errors = !keep;
  Request like = request;
  like.flags &= ~static_cast<uint32_t>(k_fua);
  like.op = keep ? Op::zero : Op::discard;
  const bool any = keep || !same || map_->state(first) == BlockState::data;
  if (any) pieces(flight, like, request.offset, request.offset + request.length);
  arrived(flight, 0);
}

void CowDisk::flush(Request& request) {
  Flight& flight = take(request, nullptr);
  flight.waiter.owner = &flight;
  flight.waiter.done = [](void* owner, int error) {
    auto& done = *static_cast<Flight*>(owner);
    done.error = error;
    done.cow->finish(done);
  };
  map_->commit(flight.waiter);
}

}  // namespace pv::blk
