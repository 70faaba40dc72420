// SPDX-License-Identifier: MIT
// One queue under load: a fixed number of requests, put together once and sent again and again with
// another sector, so that what is measured is the server. Used by the load generator; one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/rng.hpp"
#include "blk.hpp"
#include "blk/histogram.hpp"
#include "driver.hpp"

namespace pv::test::vhost {

struct Load {
  bool write = false;
  bool random = true;
  bool once = false;      // each block once and in order, in place of a time limit
  uint32_t bytes = 4096;  // of a request
  uint32_t segment = 0;   // most bytes of one data segment; 0: all of them
  unsigned depth = 1;     // requests in flight on each queue
  bool indirect = true;
  std::optional<uint64_t> verify;  // what is written, and expected, is a function of this seed
};

// What the sectors from `sector` on hold, of that seed.
void fill_pattern(uint64_t seed, uint64_t sector, char* bytes, size_t count);
bool is_pattern(uint64_t seed, uint64_t sector, const char* bytes, size_t count);

// Descriptors that a request of this load takes from the table.
unsigned descriptors_of(const Load& load);

// What all queues together have done.
struct Tally {
  uint64_t completed = 0, errors = 0, mismatches = 0;
  blk::Histogram latency;
  std::vector<bool> written;  // by block, for writes that are to be verified
};

class Lane {
 public:
  // Works on blocks [begin, end) of load.bytes each. `driver`, which has started the queue, and
  // `tally` outlive it.
  static Result<Lane> make(Driver& driver, unsigned index, const Load& load, uint64_t begin,
                           uint64_t end, Tally& tally);

  // Sends the first requests.
  void begin(uint64_t now_ns);
  // Takes what has been answered and, while `more`, sends as many again. How many there were.
  Result<unsigned> collect(uint64_t now_ns, bool more);
  bool idle() const { return in_flight_ == 0; }

  Queue& queue() { return *queue_; }

 private:
  struct Slot {
    uint16_t head = 0;
    uint64_t block = 0;
    uint64_t started_ns = 0;
    BlkHeader* header = nullptr;
    char* data = nullptr;
    uint8_t* status = nullptr;
  };
  Result<Slot> make_slot(Memory& memory);
  bool send(Slot& slot, uint64_t now_ns);  // false when there is nothing more to do
  void complete(Slot& slot, uint64_t now_ns);

  Load load_;
  Queue* queue_ = nullptr;
  Tally* tally_ = nullptr;
  Rng rng_{0};
  uint64_t begin_ = 0, end_ = 0, next_ = 0;
  unsigned in_flight_ = 0;
  std::vector<Slot> slots_;
  std::vector<uint16_t> slot_of_;  // by head
};

}  // namespace pv::test::vhost
