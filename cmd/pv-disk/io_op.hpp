// SPDX-License-Identifier: MIT
// One operation of `pv-disk io`: what a line of input asks for, and whether what came back is what
// it expects. Knows nothing of streams and connections.
#pragma once

#include <cstdint>
#include <string>

#include "base/json.hpp"
#include "base/result.hpp"

namespace pv::diskcmd {

struct IoOp {
  uint64_t line = 0;    // number of its input line, from 1
  json request;         // for the server, still without a tag
  std::string payload;  // of a write
  json id;              // as given; null when there was none
  json expect;          // as given; null when there was none
  bool show_data = true;
  uint64_t bytes() const;  // that it moves
};

// Code::bad_document for anything that is not an operation, unknown keys included.
Result<IoOp> parse_io_op(std::string_view text, uint64_t line);

// The `io` object for its result: `reply` is the server's, `data` what was read.
json io_result(const IoOp& op, const Result<json>& reply, std::string_view data);

}  // namespace pv::diskcmd
