// SPDX-License-Identifier: MIT
// What a disk's front ends count. Events (io_errors, out_of_range), requests (completed and bytes,
// which always move together) and one gauge (in_flight). Cumulative for the life of the server.
#pragma once

#include <array>
#include <cstdint>

#include "base/json_fwd.hpp"
#include "blk/disk.hpp"

namespace pv::blk {

class Counters {
 public:
  // What is counted, without what is in flight; may lie in memory that outlives the process.
  struct Row {
    uint64_t completed = 0;
    uint64_t bytes = 0;
    uint64_t errors = 0;
  };
  struct Block {
    std::array<Row, k_op_count> rows{};
    uint64_t io_errors = 0;
    uint64_t unsupported = 0;
  };

  // From now on it counts there, from what stands there.
  void count_in(Block* block) { block_ = block; }

  void started() { ++in_flight_; }
  void completed(Op op, uint64_t bytes, int error) {
    --in_flight_;
    Row& row = block_->rows[static_cast<size_t>(op)];
    if (error != 0) {
      ++block_->io_errors;
      ++row.errors;
    } else {
      ++row.completed;
      row.bytes += bytes;
    }
  }
  void unsupported() { ++block_->unsupported; }
  // A request that is none.
  void malformed() { ++block_->io_errors; }

  uint64_t in_flight() const { return in_flight_; }
  json to_json() const;

 private:
  Block own_;
  Block* block_ = &own_;
  uint64_t in_flight_ = 0;
};

}  // namespace pv::blk
