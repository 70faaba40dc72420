// SPDX-License-Identifier: MIT
// The disk of the cow layer: a base that is only ever read, and an overlay that takes the changes.
// On the loop's thread, like every layer. The map (map.hpp) says block by block who has the data.
//
//   write ── blocks already ours: straight into the overlay
//         ── others: fill up to whole blocks from the base, write, then mark them in the map
//
// What changes a block's state holds the block's range until it is done; writes, zeroes and
// discards that overlap it wait. Everything else goes on side by side.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "blk/child.hpp"
#include "blk/cow/map.hpp"
#include "blk/disk.hpp"

namespace pv::blk {

class CowDisk final : public Forward {
 public:
  CowDisk(std::unique_ptr<Disk> base, std::unique_ptr<CowMap> map);

  const Geometry& geometry() const override { return geometry_; }
  void submit(Request& request) override;
  // What another overlay asks of its base: an overlay's file says nothing of when it was changed.
  Result<json> control(const json& request) override;
  Result<> resize(uint64_t size) override;
  void inspect(json& out) const override;
  Result<> save_state(StateOut& out) override;

 private:
  // One request on its way, in however many pieces.
  struct Flight {
    CowDisk* cow = nullptr;
    Request* parent = nullptr;
    void (*next)(CowDisk&, Flight&) = nullptr;  // when the last piece is done
    uint64_t first = 0, end = 0;                // blocks that it holds, if it does
    int pending = 0;
    int error = 0;
    bool ignore_errors = false;
    std::vector<char> head, tail;  // what makes the first and last block whole
    std::vector<iovec> assembled;  // head, the request's data, tail
    std::vector<Extent> extents;   // map: of the base
    uint64_t at = 0;               // map: how far it has come
    bool stepping = false, replied = false;
    Request parts[3];  // zero: edges and the whole blocks between them
    iovec edges[2];
    CowMap::Waiter waiter;
  };
  struct Piece {
    CowDisk* cow = nullptr;
    Flight* flight = nullptr;   // or, for a request in one piece,
    Request* parent = nullptr;  // the request itself
    bool ours = false;          // goes to the overlay
    Request child;
    std::vector<iovec> data;
  };

  void read(Request& request);
  void read_in_pieces(Request& request);
  void dispatch(Request& request);  // write and whole-block zero: once nobody holds its blocks
  void write(Request& request, uint64_t first, uint64_t end);
  void fill(Flight& flight, uint64_t from, uint64_t to, std::vector<char>& bytes);
  static void write_filled(CowDisk& cow, Flight& flight);
  static void written(CowDisk& cow, Flight& flight);
  void zero(Request& request);
  void zero_blocks(Request& request, uint64_t first, uint64_t end);
  bool reads_zero(uint64_t block) const;
  void map(Request& request);
  void map_on(Flight& flight);
  bool map_step(Flight& flight);
  void flush(Request& request);

  Flight& take(Request& request, void (*next)(CowDisk&, Flight&));
  static void slice(const Request& request, uint64_t skip, uint64_t length,
                    std::vector<iovec>& out);
  void pass(Request& request);  // in one piece to the overlay
  void piece(Flight& flight, const Request& like, uint64_t offset, uint64_t length, bool ours);
  void pieces(Flight& flight, const Request& like, uint64_t offset, uint64_t end);
  static void piece_done(Request& child, int error);
  void arrived(Flight& flight, int error);
  void finish(Flight& flight);
  void hold(Flight& flight, uint64_t first, uint64_t end);
  void release(Flight& flight);
  bool held(uint64_t first, uint64_t end) const;
  void changed(Flight& flight, BlockState state);

  uint64_t block_end(uint64_t block) const {
    return std::min((block + 1) * geometry_.discard_granularity, geometry_.size);
  }
  uint64_t block_of(uint64_t offset) const { return offset >> shift_; }
  uint64_t last_block_of(const Request& r) const { return block_of(r.offset + r.length - 1); }

  Geometry geometry_;
  std::unique_ptr<CowMap> map_;
  int shift_;  // of the block size
  Pool<Flight> flights_;
  Pool<Piece> pieces_;
  std::vector<Flight*> holders_;
  std::vector<Request*> waiting_, retried_;  // bounded by the requests in flight
  bool retrying_ = false, released_ = false;
  uint64_t copied_bytes_ = 0;  // from the base, to make blocks whole
  uint64_t waits_ = 0;
};

}  // namespace pv::blk
