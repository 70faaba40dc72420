// SPDX-License-Identifier: MIT
#include "blk/mirror/records.hpp"

#include <algorithm>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <fmt/format.h>

#include "base/error.hpp"
#include "base/json.hpp"

namespace pv::blk {
namespace {

constexpr size_t k_max_ranges = 64;  // of one record; the rest is counted

}  // namespace

std::string status_name(int error) {
  return error == 0 ? "OK" : errno_name(error);
}

std::string hash_text(std::string_view bytes) {
  return fmt::format("{:016x}", XXH3_64bits(bytes.data(), bytes.size()));
}

json shown_ranges(const std::vector<ByteSpan>& spans) {
  json rows = json::array();
  for (size_t i = 0; i < std::min(spans.size(), k_max_ranges); ++i)
    rows.push_back({{"offset_bytes", spans[i].offset}, {"length_bytes", spans[i].length}});
  return rows;
}

json shown_request(uint64_t number, const Request& request, uint64_t t_ns) {
  return {{"number", number},
          {"op", op_name(request.op)},
          {"offset_bytes", request.offset},
          {"length_bytes", request.length},
          {"t_ns", t_ns},
          {"front", front_name(request.front)},
          {"connection", request.connection}};
}

json shown_write(const Writes& writes, const Writes::Write& write, Writes::Side side) {
  const uint16_t status = write.status[side];
  json shown = {{"number", write.request},
                {"op", op_name(write.op)},
                {"offset_bytes", write.offset},
                {"length_bytes", write.end - write.offset},
                {"t_ns", write.t_ns},
                {"front", front_name(write.front)},
                {"connection", write.connection},
                {"status", status == Writes::k_in_flight ? "in_flight" : status_name(status)}};
  if (write.rule[side] != 0) shown["rule"] = writes.rule_name(write.rule[side]);
  return shown;
}

json last_writer(const Writes& writes, uint64_t begin, uint64_t end, Writes::Side side) {
  const Writes::Write* last = nullptr;
  writes.each(begin, end, [&](const Writes::Write& write) {
    if (write.status[side] != 0) return true;
    last = &write;
    return false;
  });
  if (last != nullptr) return shown_write(writes, *last, side);
  const Writes::Area area = writes.area(begin);
  if (area.request == 0) return nullptr;
  // Too long ago to be known exactly: who wrote last somewhere near.
  return json{{"number", area.request},
              {"exact", false},
              {"area", {{"offset_bytes", area.offset}, {"length_bytes", area.length}}}};
}

}  // namespace pv::blk
