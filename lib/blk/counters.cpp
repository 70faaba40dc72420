// SPDX-License-Identifier: MIT
#include "blk/counters.hpp"

#include "base/json.hpp"

namespace pv::blk {

json Counters::to_json() const {
  json out;
  for (int i = 0; i < k_op_count; ++i) {
    const Row& row = block_->rows[static_cast<size_t>(i)];
    json object = {{"completed", row.completed}};
    if (static_cast<Op>(i) != Op::flush) object["bytes"] = row.bytes;
    object["errors"] = row.errors;
    out[op_name(static_cast<Op>(i))] = std::move(object);
  }
  out["io_errors"] = block_->io_errors;
  out["unsupported"] = block_->unsupported;
  out["in_flight"] = in_flight_;
  return out;
}

}  // namespace pv::blk
