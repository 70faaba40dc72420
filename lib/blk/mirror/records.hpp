// SPDX-License-Identifier: MIT
// Parts of what is written down of a difference. man/pv-verify.1 says what each key means.
#pragma once

#include <string>
#include <string_view>

#include "base/json_fwd.hpp"
#include "blk/mirror/explain.hpp"

namespace pv::blk {

std::string status_name(int error);             // "OK", "EIO"
std::string hash_text(std::string_view bytes);  // XXH3, 16 hex digits

// The first 64 of them.
json shown_ranges(const std::vector<ByteSpan>& spans);
json shown_request(uint64_t number, const Request& request, uint64_t t_ns);
json shown_write(const Writes& writes, const Writes::Write& write, Writes::Side side);
// The newest change of the range that this side has acknowledged; null when there is none.
json last_writer(const Writes& writes, uint64_t begin, uint64_t end, Writes::Side side);

}  // namespace pv::blk
