// SPDX-License-Identifier: MIT
// The volatile write cache of a disk. Writes and zeroes are answered from memory; a flush writes
// everything back that was answered before it, oldest first, and then flushes below. When memory is
// full the oldest go early, as on a real disk.
//
// Discards, requests with FUA and those too large to keep go through to the disk below and replace
// what is held of their range once they have succeeded. Two rules keep overlapping requests apart:
// a request that changes data waits for one that is going through, which itself waits for blocks
// of its range that are on their way below; and what is on its way is never changed, a copy is.
//
// cache.cpp has the changes, cache_look.cpp reads and maps, cache_back.cpp the write-back,
// cache_drop.cpp the power cut, cache_state.cpp what a snapshot keeps.
#pragma once

#include <algorithm>

#include "blk/layer/cache_store.hpp"
#include "blk/ring.hpp"

namespace pv::blk {

struct Survivors;

class Cache final : public Forward {
 public:
  Cache(std::unique_ptr<Disk> below, uint64_t bytes)
      : Forward(std::move(below)),
        store_(std::max<uint32_t>(4096, geometry().sector_size), bytes) {}

  void submit(Request& request) override;
  Result<json> control(const json& request) override;
  Result<> resize(uint64_t size) override;
  void inspect(json& out) const override;
  Result<> save_state(StateOut& out) override;
  Result<> load_state(StateIn& in) override;

 private:
  // A request that is followed: a read or map that finds part of its range here, a flush, or one
  // that goes through.
  struct Flight {
    Request child;
    Request* parent = nullptr;
    Cache* layer = nullptr;
    std::vector<Extent> extents;
    uint64_t age = 0;    // flush: what must be below
    int error = 0;       // flush: of a write-back
    bool stale = false;  // look: a block left while the disk below was asked
  };
  // Blocks on their way below: one, or a run of whole ones.
  struct Job {
    Request child;
    Cache* layer = nullptr;
    std::vector<CacheBlock*> blocks;
    std::vector<iovec> pieces;
    int bit = 0;  // the first eighth that has not been sent yet
  };
  enum class Verdict { wait, go, refuse };
  static constexpr uint64_t k_no_goal = UINT64_MAX;

  uint64_t block_of(uint64_t offset) const { return offset / store_.block_size(); }
  static uint64_t last_byte(const Request& r) { return r.offset + r.length - 1; }
  static bool overlap(const Request& r, uint64_t offset, uint64_t length) {
    return r.offset < offset + length && offset < r.offset + r.length;
  }
  Flight* follow(Request& request) {
    Flight* flight = flights_.take();
    flight->parent = &request;
    flight->layer = this;
    flight->error = 0;
    flight->stale = false;
    return flight;
  }
  static void forget_flight(std::vector<Flight*>& list, Flight* flight) {
    list.erase(std::find(list.begin(), list.end(), flight));
  }

  // The part of block `index` within a request: its first eighth, how many, and where in the data.
  struct Part {
    int first, count;
    uint64_t at;
    uint8_t bits() const { return static_cast<uint8_t>(((1U << count) - 1) << first); }
  };
  Part part_of(const Request& r, uint64_t index) const {
    const uint64_t start = index * store_.block_size();
    const uint64_t from = std::max(start, r.offset);
    const uint64_t to = std::min(start + store_.block_size(), r.offset + r.length);
    return {static_cast<int>((from - start) / store_.unit()),
            static_cast<int>((to - from) / store_.unit()), from - r.offset};
  }

  // cache_look.cpp
  void look(Request& request);
  void look_below(Flight& flight);
  void looked(Flight& flight, int error);
  void overlay(const Request& request);
  void overlay_map(Flight& flight);
  void make_stale(uint64_t offset, uint64_t length);

  // cache.cpp
  void change(Request& request);
  bool goes_through(const Request& request) const;
  bool under_way_through(uint64_t index) const;
  Verdict judge(const Request& request);
  void act(Request& request, Verdict verdict);
  void absorb(const Request& request, uint64_t index);
  void go_through(Request& request);
  void went_through(Flight& flight, int error);
  void replaced(const Request& request);
  void forget(uint64_t offset, uint64_t length);
  json shown() const;

  // cache_drop.cpp
  Result<json> cut(const json& request);
  Result<json> power_on(const json& request);
  void refuse_waiting();
  void lose(const Survivors& survivors);
  uint64_t held_bytes();

  // cache_state.cpp
  json busy(const json& request);
  Result<> save_block(StateOut& out, const CacheBlock& block);
  Result<> load_block(StateIn& in);

  // cache_back.cpp
  void flush(Request& request);
  void turn();
  void write_back();
  bool may_leave(const CacheBlock& block) const;
  void start_job(CacheBlock& first);
  void send(Job& job);
  void sent(Job& job, int error);
  void note_error(uint64_t age, int error);
  void serve_waiting();
  void finish_flushes();
  void flushed(Flight& flight, int error);

  CacheStore store_;
  Pool<Flight> flights_;
  Pool<Job> jobs_;
  std::vector<Flight*> looks_, flushes_, throughs_;
  Ring<Request*> waiting_;          // changes, in order; as many as the front ends let in
  uint64_t room_goal_ = k_no_goal;  // blocks to come down to
  int room_error_ = 0;              // why no room could be made
  bool turning_ = false, again_ = false;
  bool off_ = false;  // without power: nothing is accepted or begun
  uint64_t write_backs_ = 0, errors_ = 0;
};

}  // namespace pv::blk
