// SPDX-License-Identifier: MIT
// What the medium should hold where a fault has left something else there: the data of writes that
// were dropped or torn, and what a misdirected one has overwritten. Kept sector by sector until the
// guest writes there again or a repair puts it right; bounded, and what did not fit is counted.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "blk/disk.hpp"

namespace pv::blk {

class Truth {
 public:
  static constexpr uint64_t k_max_bytes = 256 << 20;

  explicit Truth(uint32_t sector_size) : sector_size_(sector_size) {}

  bool empty() const { return sectors_.empty(); }
  uint64_t bytes() const { return sectors_.size() * sector_size_; }
  uint64_t not_kept_bytes() const { return not_kept_ * sector_size_; }

  // Sector by sector, in order; visit(offset, rule, data) may fail.
  template <class Visit>
  Result<> each(Visit&& visit) const {
    for (const auto& [offset, sector] : sectors_)
      TRY(visit(offset, sector.rule, static_cast<const char*>(sector.data.get())));
    return {};
  }
  uint32_t sector_size() const { return sector_size_; }

  // `rule`: whose fault it is. The later word counts. `data` null: zeroes.
  void remember(uint64_t rule, uint64_t offset, const char* data, uint64_t length);
  // What a change request wants to be there: its data, or zeroes.
  void remember(uint64_t rule, const Request& request, uint64_t from, uint64_t length);
  // The medium is right again here.
  void forget(uint64_t offset, uint64_t length);
  // The sector that starts at `offset`, or nullptr where the medium is right.
  const char* at(uint64_t offset) const;

  // Takes out what is kept of one rule (0: of all), in stretches of at most `max` bytes, in order.
  using Stretch =
      std::function<void(uint64_t offset, std::shared_ptr<char[]> data, uint64_t length)>;
  void take(uint64_t rule, uint64_t max, const Stretch& stretch);

 private:
  struct Sector {
    uint64_t rule;
    std::unique_ptr<char[]> data;
  };
  char* slot(uint64_t rule, uint64_t offset);

  uint32_t sector_size_;
  std::map<uint64_t, Sector> sectors_;  // by byte offset
  uint64_t not_kept_ = 0;
};

}  // namespace pv::blk
