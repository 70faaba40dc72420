// SPDX-License-Identifier: MIT
#include "blk/fault/journal.hpp"

#include <nlohmann/json.hpp>

namespace pv::blk {
namespace {

std::string status_name(int error) {
  return error == 0 ? "OK" : errno_name(error);
}

json to_json(const JournalEntry& entry) {
  json row = {{"n", entry.number},
              {"t_ns", entry.t_ns},
              {"rule", entry.rule},
              {"kind", entry.kind},
              {"op", op_name(entry.op)},
              {"front", front_name(entry.front)},
              {"connection", entry.connection},
              {"offset_bytes", entry.offset},
              {"length_bytes", entry.length}};
  if (entry.delay_ns != 0) {
    row["delay_ms"] = static_cast<double>(entry.delay_ns) / 1e6;
  } else {
    row["phase"] = phase_name(entry.phase);
    row["io_done"] = entry.phase == Phase::after_io;
    row["requested"] = status_name(entry.requested);
    row["delivered"] = status_name(entry.delivered);
  }
  return row;
}

}  // namespace

void Journal::add(JournalEntry entry) {
  entry.number = ++last_;
  entries_.push_back(std::move(entry));
  if (entries_.size() > k_capacity) entries_.pop_front();
}

json Journal::read(uint64_t since, size_t max) const {
  json rows = json::array();
  if (since >= last_) return rows;  // also keeps since + 1 from wrapping around
  const uint64_t first = dropped() + 1;
  for (uint64_t n = std::max(first, since + 1); n <= last_ && rows.size() < max; ++n)
    rows.push_back(to_json(entries_[n - first]));
  return rows;
}

}  // namespace pv::blk
