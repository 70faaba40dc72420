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
  void started() { ++in_flight_; }
  void completed(Op op, uint64_t bytes, int error) {
    --in_flight_;
    auto& row = rows_[static_cast<size_t>(op)];
    if (error != 0) {
      ++io_errors_;
      ++row.errors;
    } else {
      ++row.completed;
      row.bytes += bytes;
    }
  }
  void unsupported() { ++unsupported_; }
  // A request that is none.
  void malformed() { ++io_errors_; }

  uint64_t in_flight() const { return in_flight_; }
  json to_json() const;

 private:
  struct Row {
    uint64_t completed = 0;
    uint64_t bytes = 0;
    uint64_t errors = 0;
  };
  std::array<Row, k_op_count> rows_{};
  uint64_t io_errors_ = 0;
  uint64_t unsupported_ = 0;
  uint64_t in_flight_ = 0;
};

}  // namespace pv::blk
