// SPDX-License-Identifier: MIT
// The driver's side of one split virtqueue in guest memory: chains of descriptors go in, used
// elements come out, with event indices and indirect tables. Every field of the three rings can
// also be written by hand, so that a test can make loops, bad flags, or an index too far ahead;
// what the queue itself needs to know (which descriptors are free, what is in flight) it keeps
// outside of the shared memory, and a test that scribbles there does not confuse it. One thread.
// Made for a Memory that outlives it; belongs to a Driver, or to whoever made it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "base/result.hpp"
#include "memory.hpp"
#include "protocol.hpp"

namespace pv::test::vhost {

struct Segment {
  uint64_t addr = 0;  // guest physical
  uint32_t len = 0;
  bool write = false;  // the device writes it
};

enum class Notify {
  call,  // sleep on the call eventfd
  poll,  // look at the used ring all the time and ask for no call
};

class Queue {
 public:
  // Puts the rings into free guest memory. `size` may be anything: legal ones are powers of two.
  static Result<Queue> make(Memory& memory, uint16_t size, int region = -1);
  Queue(Queue&&) noexcept = default;
  Queue& operator=(Queue&&) noexcept = default;

  uint16_t size() const { return size_; }
  // Guest addresses of the descriptor table, the avail ring and the used ring.
  uint64_t table_at() const { return table_at_; }
  uint64_t avail_at() const { return avail_at_; }
  uint64_t used_at() const { return used_at_; }
  int kick_fd() const { return kick_.get(); }
  int call_fd() const { return call_.get(); }
  int err_fd() const { return err_.get(); }
  // Whether both sides use event indices; the driver says so once they are negotiated.
  void use_event_idx(bool on) { event_idx_ = on; }
  // Empty rings, nothing in flight, as after a reset of the device, or as if `start` requests had
  // gone by. Only while it is stopped.
  void reset(uint16_t start = 0);

  // --- chains ---
  // Descriptors linked in order; returns the head, or Code::out_of_range when too few are free.
  // With `indirect`, one descriptor that names a table in guest memory. Not yet seen by the device.
  Result<uint16_t> add(std::span<const Segment> chain, bool indirect = false);
  // Makes a head, which need not be one of add()'s, available.
  void publish(uint16_t head);
  // The same for several at once: stage() each, then commit(): one step of the index.
  void stage(uint16_t head);
  void commit();
  // Tells the device unless it does not want to hear of it; whether it was told.
  bool kick();
  void kick_always();

  // The next used element, if there is one, and its descriptors free again. Code::bug when it names
  // a head that is not in flight.
  Result<std::optional<UsedElement>> take();
  // The same, but the chain stays as it is, to be published again.
  Result<std::optional<UsedElement>> take_keep();
  // Waits for the next one. Code::timeout when it does not come.
  Result<UsedElement> wait(const Deadline& deadline, Notify how = Notify::call);
  bool has_used() const { return used_idx() != last_used_; }
  // Asks for a call at the next used element, or for none; true when there is one already.
  bool want_call(bool wanted);
  // Sleeps until the call eventfd is written, and empties it. False at the deadline.
  bool wait_call(const Deadline& deadline) const;

  uint16_t in_flight() const { return static_cast<uint16_t>(next_avail_ - last_used_); }
  size_t free_descriptors() const { return free_.size(); }
  uint16_t last_used() const { return last_used_; }    // used elements taken
  uint16_t next_avail() const { return next_avail_; }  // heads made available

  // --- raw ---
  Descriptor& descriptor(uint16_t index) const { return table_[index]; }
  // An entry of the indirect table that a descriptor names.
  Descriptor* indirect_entry(uint16_t head, uint16_t index) const;
  uint16_t avail_flags() const { return load(avail_[0]); }
  void set_avail_flags(uint16_t flags) { store(avail_[0], flags); }
  uint16_t avail_idx() const { return load(avail_[1]); }
  void set_avail_idx(uint16_t idx) { store(avail_[1], idx); }
  uint16_t avail_ring(uint16_t slot) const { return load(avail_[2 + slot]); }
  void set_avail_ring(uint16_t slot, uint16_t head) { store(avail_[2 + slot], head); }
  uint16_t used_event() const { return load(avail_[2 + size_]); }
  void set_used_event(uint16_t idx) { store(avail_[2 + size_], idx); }
  uint16_t used_flags() const { return load(used_[0]); }
  uint16_t used_idx() const { return load(used_[1]); }
  void set_used_idx(uint16_t idx) { store(used_[1], idx); }
  UsedElement used_element(uint16_t slot) const { return elements_[slot]; }
  uint16_t avail_event() const { return load(used_[2 + 4 * size_]); }

 private:
  Queue() = default;
  static uint16_t load(const uint16_t& field) { return __atomic_load_n(&field, __ATOMIC_ACQUIRE); }
  static void store(uint16_t& field, uint16_t value) {
    __atomic_store_n(&field, value, __ATOMIC_RELEASE);
  }
  void release(uint16_t head);

  struct Chain {
    std::vector<uint16_t> descriptors;  // empty: no chain of add()'s begins here
    uint64_t indirect = 0;              // its table
    uint16_t flights = 0;               // how often it is published and not yet used
  };

  Memory* memory_ = nullptr;
  uint16_t size_ = 0;
  uint64_t table_at_ = 0, avail_at_ = 0, used_at_ = 0;
  Descriptor* table_ = nullptr;
  uint16_t* avail_ = nullptr;  // flags, idx, ring[size], used_event
  uint16_t* used_ = nullptr;   // flags, idx, then elements, then avail_event
  UsedElement* elements_ = nullptr;
  Fd kick_, call_, err_;
  bool event_idx_ = false;
  std::vector<uint16_t> free_;
  std::vector<Chain> chains_;  // by head; any 16 bits can be one
  uint16_t next_avail_ = 0, staged_ = 0, last_used_ = 0, last_kick_ = 0;
};

}  // namespace pv::test::vhost
