// SPDX-License-Identifier: MIT
#include "blk/fault/match.hpp"

#include <cstring>

#include <fmt/format.h>

#define XXH_INLINE_ALL
#include <cstdlib>
#include <xxhash.h>

#include "base/json.hpp"
#include "base/text.hpp"
#include "blk/fault/keys.hpp"
#include "blk/segments.hpp"

namespace pv::blk {
namespace {

constexpr size_t k_max_shown_ranges = 4096;
constexpr uint64_t k_max_content = 4096;
constexpr uint64_t k_max_request = 32 << 20;  // no front end lets a longer write in
constexpr uint32_t k_addressed = k_every_op & ~op_bit(Op::flush);

struct FlagName {
  const char* name;
  uint32_t flag;
  uint32_t ops;  // that can have it
};
constexpr FlagName k_flags[] = {
    {"fua", k_fua, op_bit(Op::write) | op_bit(Op::zero) | op_bit(Op::discard)},
    {"no_unmap", k_no_unmap, op_bit(Op::zero)},
    {"one", k_one, op_bit(Op::map)},
};

void read_ops(Keys& keys, const Action& action, Match& match) {
  match.ops = action.default_ops();
  const json* list = keys.list("op");
  if (list == nullptr || list->empty()) return;
  match.ops = 0;
  for (const json& name : *list) {
    Op op;
    if (!name.is_string() || !op_from_name(name.get<std::string>(), op))
      return keys.refuse(
          fmt::format("match.op: unknown operation {} (read write flush discard zero map cache)",
                      to_line(name)));
    if ((action.ops() & op_bit(op)) == 0)
      return keys.refuse(fmt::format("match.op: this kind does nothing to a {}", op_name(op)));
    match.ops |= op_bit(op);
  }
}

// Pairs of 64-bit numbers in base64: how a command sends very many.
bool unpack_ranges(Keys& keys, const std::string& packed, std::vector<Range>& ranges) {
  const auto bytes = base64_decode(packed);
  if (!bytes || bytes->size() % sizeof(Range) != 0) {
    keys.refuse("match.ranges_packed is not a list of pairs in base64");
    return false;
  }
  ranges.resize(bytes->size() / sizeof(Range));
  std::memcpy(static_cast<void*>(ranges.data()), bytes->data(), bytes->size());
  return true;
}

bool list_ranges(Keys& keys, const json& list, std::vector<Range>& ranges) {
  for (const json& pair : list) {
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_number_unsigned() ||
        !pair[1].is_number_unsigned()) {
      keys.refuse(fmt::format("match.ranges: {} is not [offset, length] in bytes", to_line(pair)));
      return false;
    }
    ranges.push_back({pair[0].get<uint64_t>(), pair[1].get<uint64_t>()});
  }
  return true;
}

void read_ranges(Keys& keys, uint64_t disk_size, bool clip, Match& match) {
  std::vector<Range> ranges;
  const json* list = keys.list("ranges");
  const std::string packed = keys.text("ranges_packed", "");
  if (packed.empty() && (list == nullptr || list->empty())) return;
  if (!packed.empty() ? !unpack_ranges(keys, packed, ranges) : !list_ranges(keys, *list, ranges))
    return;
  const auto past = [&](const Range& range) { return range.offset >= disk_size; };
  if (clip) ranges.erase(std::remove_if(ranges.begin(), ranges.end(), past), ranges.end());
  if (clip && ranges.empty())
    return keys.refuse("every range is past the end of the disk: the rule could never fire");
  for (Range& range : ranges) {
    const bool fits = range.offset <= disk_size && range.length <= disk_size - range.offset;
    if (range.length == 0 || (!fits && !clip)) {
      const std::string shown = fmt::format("[{},{}]", range.offset, range.length);
      return keys.refuse(range.length == 0
                             ? fmt::format("range {} is empty: the rule could never fire", shown)
                             : fmt::format("range {} reaches past the end of the disk ({} bytes)",
                                           shown, disk_size));
    }
    if (!fits) range.length = disk_size - range.offset;
  }
  match.ranged = !ranges.empty();
  match.ranges = RangeSet(std::move(ranges));
  if (match.ranged && (match.ops & k_addressed) == 0)
    keys.refuse("a flush has no address: with ranges the rule could never fire");
}

void read_flags(Keys& keys, Match& match) {
  const json* list = keys.list("flags");
  if (list == nullptr) return;
  for (const json& name : *list) {
    const auto same = [&](const FlagName& row) { return name == row.name; };
    const auto* row = std::find_if(std::begin(k_flags), std::end(k_flags), same);
    if (row == std::end(k_flags))
      return keys.refuse(
          fmt::format("match.flags: unknown flag {} (fua no_unmap one)", to_line(name)));
    if ((match.ops & row->ops) == 0)
      return keys.refuse(fmt::format(
          "match.flags: none of these operations can have '{}': the rule could never fire",
          row->name));
    match.flags |= row->flag;
  }
}

void read_size(Keys& keys, const Geometry& geometry, Match& match) {
  match.min_bytes = keys.whole("min_bytes", 0);
  match.max_bytes = keys.whole("max_bytes", UINT64_MAX);
  match.aligned_to = keys.whole("aligned_to", 0, 1);
  match.unaligned_to = keys.whole("unaligned_to", 0, 1);
  if (match.min_bytes != 0 && (match.ops & k_addressed) == 0)
    return keys.refuse("a flush has no length: with match.min_bytes the rule could never fire");
  if (match.min_bytes > match.max_bytes)
    return keys.refuse("match.min_bytes is above max_bytes: the rule could never fire");
  if (match.min_bytes > geometry.size)
    return keys.refuse("match.min_bytes is above the size of the disk: the rule could never fire");
  if (match.max_bytes != UINT64_MAX && match.max_bytes < geometry.sector_size &&
      (match.ops & op_bit(Op::flush)) == 0)
    return keys.refuse("match.max_bytes is below a sector: the rule could never fire");
  if (match.unaligned_to != 0 && geometry.sector_size % match.unaligned_to == 0)
    return keys.refuse(
        "every request is aligned to sectors: with this match.unaligned_to the rule could never "
        "fire");
  if (match.aligned_to != 0 && (match.ops & op_bit(Op::flush)) == 0) {
    const uint64_t least = std::max(match.min_bytes, match.aligned_to);
    if ((least + match.aligned_to - 1) / match.aligned_to * match.aligned_to > match.max_bytes)
      return keys.refuse("match: no length is aligned like that: the rule could never fire");
  }
  if (match.aligned_to != 0 && match.unaligned_to != 0 &&
      match.aligned_to % match.unaligned_to == 0)
    return keys.refuse("match.aligned_to and unaligned_to exclude each other");
}

bool hex_bytes(const std::string& text, std::string& bytes) {
  if (text.size() % 2 != 0 || text.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos)
    return false;
  for (size_t i = 0; i < text.size(); i += 2)
    bytes += static_cast<char>(std::strtoul(text.substr(i, 2).c_str(), nullptr, 16));
  return true;
}

Result<> read_content(Keys& outer, uint32_t sector, Match& match) {
  const json* object = outer.raw("content");
  if (object == nullptr) return {};
  if ((match.ops & op_bit(Op::write)) == 0)
    return fail(Code::bad_rule,
                "match.content looks at what is written, and no write matches: the rule could "
                "never fire");
  Keys keys(*object, "match.content");
  Content content;
  if (keys.has("at")) content.at = keys.whole("at", 0, 0, k_max_request - 1);
  content.sector = sector;
  content.bytes = keys.text("text", "");
  const std::string hex = keys.text("hex", ""), hash = keys.text("xxh3", "");
  if (!hex.empty() && !content.bytes.empty())
    keys.refuse("match.content: text and hex exclude each other");
  if (!hex.empty() && !hex_bytes(hex, content.bytes)) keys.refuse("match.content.hex is not hex");
  if (!hash.empty()) {
    char* end = nullptr;
    content.xxh3 = std::strtoull(hash.c_str(), &end, 16);
    if (hash.size() != 16 || *end != '\0')
      keys.refuse("match.content.xxh3 is not a hash of 16 hex digits");
  }
  if (keys.good() && content.bytes.empty() && hash.empty())
    keys.refuse("match.content has nothing to look for (text, hex or xxh3)");
  if (content.bytes.size() > k_max_content)
    keys.refuse(fmt::format("match.content is longer than {} bytes", k_max_content));
  const uint64_t longest = std::min(match.max_bytes, k_max_request);
  if (keys.good() && content.at.value_or(0) + content.bytes.size() > longest)
    keys.refuse(
        fmt::format("match.content ends behind {} bytes: the rule could never fire", longest));
  TRY(keys.end());
  match.content = std::move(content);
  return {};
}

void read_origin(Keys& keys, Match& match) {
  if (const json* list = keys.list("connection")) {
    for (const json& number : *list) {
      if (!number.is_number_unsigned())
        return keys.refuse("match.connection is not a list of numbers");
      match.connections.push_back(number.get<uint32_t>());
    }
  }
  if (keys.has("front"))
    match.front = static_cast<Front>(keys.choice("front", {"host", "nbd", "vhost-user"}, 0));
  if (match.front == Front::host && !match.connections.empty())
    keys.refuse("the host has no connections: the rule could never fire");
}

bool stands_at(const Content& content, const Request& request, uint64_t at) {
  if (content.bytes.size() > request.length || at > request.length - content.bytes.size())
    return false;
  bool same = true;
  const char* expected = content.bytes.data();
  each_segment(request, at, content.bytes.size(), [&](const char* data, size_t n) {
    same = same && std::memcmp(data, expected, n) == 0;
    expected += n;
  });
  return same;
}

// Without a place, at the start of any sector: a guest may write the one that is meant with others.
bool holds(const Content& content, const Request& request) {
  if (request.op != Op::write) return false;
  bool found = content.at && stands_at(content, request, *content.at);
  for (uint64_t at = 0; !content.at && !found && at < request.length; at += content.sector)
    found = stands_at(content, request, at);
  if (!found || !content.xxh3) return found;
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  each_segment(request, 0, request.length,
               [&](const char* data, size_t n) { XXH3_64bits_update(&state, data, n); });
  return XXH3_64bits_digest(&state) == *content.xxh3;
}

}  // namespace

bool Match::covers_rest(const Request& request) const {
  if ((request.flags & flags) != flags) return false;
  if (request.length < min_bytes || request.length > max_bytes) return false;
  const uint64_t place = request.offset | request.length;
  if (aligned_to != 0 && (request.offset % aligned_to != 0 || request.length % aligned_to != 0))
    return false;
  if (unaligned_to != 0 &&
      (place == 0 || (request.offset % unaligned_to == 0 && request.length % unaligned_to == 0)))
    return false;
  if (!comes_from(request)) return false;
  return !content || holds(*content, request);
}

bool Match::comes_from(const Request& request) const {
  if (front && request.front != *front) return false;
  return connections.empty() ||
         (request.front != Front::host && std::find(connections.begin(), connections.end(),
                                                    request.connection) != connections.end());
}

json Match::to_json() const {
  json object = {{"op", json::array()}, {"ranges", json::array()}};
  for (int i = 0; i < k_op_count; ++i)
    if (ops != k_every_op && (ops & 1U << i) != 0)
      object["op"].push_back(op_name(static_cast<Op>(i)));
  if (ranges.count() <= k_max_shown_ranges)
    for (const Range& range : ranges.list())
      object["ranges"].push_back({range.offset, range.length});
  else
    object["ranges_count"] = ranges.count();
  for (const FlagName& row : k_flags)
    if ((flags & row.flag) != 0) object["flags"].push_back(row.name);
  if (min_bytes != 0) object["min_bytes"] = min_bytes;
  if (max_bytes != UINT64_MAX) object["max_bytes"] = max_bytes;
  if (aligned_to != 0) object["aligned_to"] = aligned_to;
  if (unaligned_to != 0) object["unaligned_to"] = unaligned_to;
  if (content) {
    json& shown = object["content"] = json::object();
    if (content->at) shown["at"] = *content->at;
    if (content->xxh3) shown["xxh3"] = fmt::format("{:016x}", *content->xxh3);
    std::string hex;
    for (const char c : content->bytes) hex += fmt::format("{:02x}", static_cast<uint8_t>(c));
    if (!hex.empty()) shown["hex"] = hex;
  }
  if (!connections.empty()) object["connection"] = connections;
  if (front) object["front"] = front_name(*front);
  return object;
}

Result<Match> parse_match(const json& object, const Geometry& geometry, const Action& action,
                          bool clip) {
  Match match;
  Keys keys(object, "match");
  read_ops(keys, action, match);
  read_ranges(keys, geometry.size, clip, match);
  read_flags(keys, match);
  read_size(keys, geometry, match);
  TRY(read_content(keys, geometry.sector_size, match));
  read_origin(keys, match);
  static_cast<void>(keys.raw("ranges_count"));  // a long list is shown as its length only
  TRY(keys.end());
  if (find(object, "ranges_count") != nullptr && !match.ranged)
    return fail(Code::bad_rule, "match.ranges_count stands for ranges that were not listed");
  if (action.needs_ranges() && !match.ranged)
    return fail(Code::bad_rule, "this kind needs match.ranges: which part of the disk is bad");
  match.plain = match.flags == 0 && match.min_bytes == 0 && match.max_bytes == UINT64_MAX &&
                match.aligned_to == 0 && match.unaligned_to == 0 && !match.content &&
                match.connections.empty() && !match.front;
  return match;
}

}  // namespace pv::blk
