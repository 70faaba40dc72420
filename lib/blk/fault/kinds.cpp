// SPDX-License-Identifier: MIT
#include "blk/fault/kinds.hpp"

#include "base/json.hpp"

namespace pv::blk {
namespace {

constexpr const char* k_data = "data";

const KindRow k_kinds[] = {
    {"error", "the request fails with an errno", "errno prefix", "errno", "code or EIO", "EIO",
     "EIO", make_error},
    {"medium", "reads of bad sectors fail, what comes before them is read", "errno prefix", "errno",
     "code, good part", "EIO", "EIO", make_medium},
    {"read_only", "changes are refused, everywhere or in ranges", "", "EROFS", "EPERM", "EIO",
     "EIO", make_read_only},
    {"capacity", "requests past a smaller size fail", "size_bytes", "ERANGE", "ENOSPC or EINVAL",
     "EIO", "EIO", make_capacity},
    {"gone", "from the first firing on every request fails", "errno", "errno", "code or EIO", "EIO",
     "EIO", make_gone},
    {"delay", "the request waits before it is looked at again", "delay_ms", "full", "full", "full",
     "full", make_delay},
    {"jitter", "the request waits for a time of chance",
     "distribution min_ms max_ms mean_ms stddev_ms buckets values_ms", "full", "full", "full",
     "full", make_jitter},
    {"rate", "so many operations or bytes a second", "iops bytes_per_s burst_ms", "full", "full",
     "full", "full", make_rate},
    {"stall", "the request is held until it is released", "max_ms", "full", "full", "hangs",
     "hangs", make_stall},
    {"reorder", "writes wait for each other and go on in another order", "depth max_ms", "full",
     "full", "full", "full", make_reorder},
    {"drop_write", "a change is acknowledged and forgotten", "", k_data, k_data, k_data, k_data,
     make_drop_write},
    {"drop_flush", "a flush is acknowledged and forgotten", "", "OK", "OK", "OK", "OK",
     make_drop_flush},
    {"drop_fua", "FUA is taken off a change", "", "OK", "OK", "never", "OK without cache",
     make_drop_fua},
    {"torn_write", "only some sectors of a write reach the medium", "keep units unit_bytes", k_data,
     k_data, k_data, k_data, make_torn_write},
    {"short", "a transfer ends early and does not say so", "bytes", k_data, k_data, k_data, k_data,
     make_short},
    {"misdirect_write", "the data is written elsewhere", "to_bytes shift_bytes", k_data, k_data,
     k_data, k_data, make_misdirect_write},
    {"misdirect_read", "the data is read elsewhere", "to_bytes shift_bytes", k_data, k_data, k_data,
     k_data, make_misdirect_read},
    {"corrupt_read", "what is read is damaged on its way",
     "pattern count length_bytes at from_bytes", k_data, k_data, k_data, k_data, make_corrupt_read},
    {"corrupt_write", "what is written is damaged on the medium",
     "pattern count length_bytes at from_bytes", k_data, k_data, k_data, k_data,
     make_corrupt_write},
    {"stale_read", "a read returns what was there when the rule came", "", k_data, k_data, k_data,
     k_data, make_stale_read},
    {"late_write", "a write lands after it was answered", "after_ms", k_data, k_data, k_data,
     k_data, make_late_write},
    {"duplicate_write", "a write lands once more later", "after_ms", k_data, k_data, k_data, k_data,
     make_duplicate_write},
    {"fail_written", "a change is carried out and reported as failed", "errno", "errno",
     "code or EIO", "EIO", "EIO", make_fail_written},
    {"power_cut", "the volatile cache is lost, then every request fails", "survivors errno",
     "errno", "code or EIO", "EIO", "EIO", make_power_cut},
    {"disconnect", "the connection is cut at a point of the protocol", "at bytes", "unsupported",
     "cut", "repeated", "repeated", make_disconnect},
    {"violate", "the answer breaks the protocol", "what bytes", "unsupported", "broken answer",
     "EIO, or fooled", "dead, or fooled", make_violate},
    {"mark", "sets a mark for other rules; the request passes", "name", "full", "full", "full",
     "full", make_mark},
};

struct Shorthand {
  const char* mode;
  const char* op;  // nullptr: reads and writes
  const char* kind;
};

constexpr Shorthand k_shorthands[] = {
    {"eio_read", "read", "error"},
    {"eio_write", "write", "error"},
    {"slow", nullptr, "delay"},
};
constexpr int k_slow_ms = 50;

}  // namespace

std::span<const KindRow> fault_kinds() {
  return k_kinds;
}

std::optional<json> shorthand_rule(std::string_view mode) {
  for (const Shorthand& row : k_shorthands) {
    if (mode != row.mode) continue;
    json ops = row.op ? json::array({row.op}) : json::array({"read", "write"});
    json action = {{"kind", row.kind}};
    if (row.op)
      action["errno"] = "EIO";
    else
      action["delay_ms"] = k_slow_ms;
    return json{{"id", row.mode}, {"match", {{"op", ops}}}, {"do", action}};
  }
  return std::nullopt;
}

std::vector<std::string> valid_modes() {
  std::vector<std::string> names;
  for (const Shorthand& row : k_shorthands) names.emplace_back(row.mode);
  for (const KindRow& row : k_kinds) names.emplace_back(row.name);
  return names;
}

}  // namespace pv::blk
