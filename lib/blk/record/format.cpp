// SPDX-License-Identifier: MIT
#include "blk/record/format.hpp"

#include <bit>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace pv::blk {
namespace {

static_assert(std::endian::native == std::endian::little, "fields are copied as they are");

constexpr char k_log_magic[8] = {'P', 'V', 'W', 'L', 'O', 'G', '\n', '\x1a'};
constexpr uint32_t k_log_version = 1;
constexpr uint32_t k_entry_magic = 0x4c575650;  // "PVWL"
constexpr size_t k_head_checksum_at = 504;
constexpr uint64_t k_max_size = uint64_t{1} << 62;

template <class T>
void put(char* bytes, size_t at, T value) {
  std::memcpy(bytes + at, &value, sizeof value);
}

template <class T>
T get(const char* bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes + at, sizeof value);
  return value;
}

bool plausible(const LogHead& head) {
  return std::has_single_bit(head.sector_size) && head.sector_size >= 512 &&
         head.size % head.sector_size == 0 && head.size <= k_max_size;
}

bool has_range(LogKind kind) {
  return kind == LogKind::write || kind == LogKind::zero || kind == LogKind::discard;
}

bool plausible(const LogEntry& entry) {
  if (entry.n == 0 || entry.data_len > k_log_max_data) return false;
  if (entry.offset > k_max_size || entry.length > k_max_size) return false;
  if (has_range(entry.kind) && entry.length == 0) return false;
  if (entry.kind == LogKind::write) return entry.data_len == entry.length;
  if (entry.kind == LogKind::mark) return entry.data_len >= 1 && entry.data_len <= k_log_max_mark;
  return entry.data_len == 0;
}

}  // namespace

const char* log_kind_name(LogKind kind) {
  switch (kind) {
    case LogKind::write:
      return "write";
    case LogKind::zero:
      return "zero";
    case LogKind::discard:
      return "discard";
    case LogKind::flush:
      return "flush";
    case LogKind::mark:
      return "mark";
    case LogKind::resize:
      return "resize";
    case LogKind::done:
      return "done";
    case LogKind::session:
      return "session";
  }
  return "?";
}

const char* log_state_name(LogHead::State state) {
  switch (state) {
    case LogHead::closed:
      return "closed";
    case LogHead::broken:
      return "broken";
    case LogHead::recording:
      break;
  }
  return "recording";
}

void encode_log_head(const LogHead& head, char* bytes) {
  std::memset(bytes, 0, k_log_head);
  std::memcpy(bytes, k_log_magic, sizeof k_log_magic);
  put(bytes, 8, k_log_version);
  put(bytes, 12, head.sector_size);
  put(bytes, 16, head.id);
  put(bytes, 24, head.size);
  put(bytes, 32, head.edges);
  put(bytes, 40, head.began_ns);
  std::memcpy(bytes + 48, head.disk.data(), head.disk.size());
  put(bytes, 64, static_cast<uint32_t>(head.discard));
  put(bytes, 68, static_cast<uint32_t>(head.knows_edges));
  put(bytes, 72, static_cast<uint32_t>(head.state));
  put(bytes, 76, head.error);
  put(bytes, 80, head.last_edges);
  put(bytes, 88, static_cast<uint32_t>(head.knows_last_edges));
  put(bytes, 96, head.end);
  put(bytes, k_head_checksum_at, XXH3_64bits(bytes, k_head_checksum_at));
}

bool decode_log_head(const char* bytes, LogHead& head) {
  if (std::memcmp(bytes, k_log_magic, sizeof k_log_magic) != 0 ||
      get<uint32_t>(bytes, 8) != k_log_version ||
      get<uint64_t>(bytes, k_head_checksum_at) != XXH3_64bits(bytes, k_head_checksum_at))
    return false;
  const auto discard = get<uint32_t>(bytes, 64), state = get<uint32_t>(bytes, 72);
  if (discard > static_cast<uint32_t>(DiscardBehaviour::ignored) || state > LogHead::broken)
    return false;
  head.sector_size = get<uint32_t>(bytes, 12);
  head.id = get<uint64_t>(bytes, 16);
  head.size = get<uint64_t>(bytes, 24);
  head.edges = get<uint64_t>(bytes, 32);
  head.began_ns = get<uint64_t>(bytes, 40);
  std::memcpy(head.disk.data(), bytes + 48, head.disk.size());
  head.discard = static_cast<DiscardBehaviour>(discard);
  head.knows_edges = get<uint32_t>(bytes, 68) != 0;
  head.state = static_cast<LogHead::State>(state);
  head.error = get<uint32_t>(bytes, 76);
  head.last_edges = get<uint64_t>(bytes, 80);
  head.knows_last_edges = get<uint32_t>(bytes, 88) != 0;
  head.end = get<uint64_t>(bytes, 96);
  return plausible(head);
}

void encode_log_entry(const LogEntry& entry, uint64_t log_id, uint64_t at, char* bytes) {
  put(bytes, 0, k_entry_magic);
  put(bytes, 4, static_cast<uint8_t>(entry.kind));
  put(bytes, 5, entry.flags);
  put(bytes, 6, uint16_t{0});
  put(bytes, 8, entry.n);
  put(bytes, 16, entry.t_ns);
  put(bytes, 24, entry.offset);
  put(bytes, 32, entry.length);
  put(bytes, 40, entry.data_len);
  put(bytes, 44, entry.detail);
  put(bytes, 48, entry.hash);
  put(bytes, 56, XXH3_64bits_withSeed(bytes, 56, log_id + at));
}

bool decode_log_entry(const char* bytes, uint64_t log_id, uint64_t at, LogEntry& entry) {
  if (get<uint32_t>(bytes, 0) != k_entry_magic ||
      get<uint64_t>(bytes, 56) != XXH3_64bits_withSeed(bytes, 56, log_id + at))
    return false;
  const auto kind = get<uint8_t>(bytes, 4);
  if (kind == 0 || kind >= k_log_kinds) return false;
  entry.kind = static_cast<LogKind>(kind);
  entry.flags = get<uint8_t>(bytes, 5);
  entry.n = get<uint64_t>(bytes, 8);
  entry.t_ns = get<uint64_t>(bytes, 16);
  entry.offset = get<uint64_t>(bytes, 24);
  entry.length = get<uint64_t>(bytes, 32);
  entry.data_len = get<uint32_t>(bytes, 40);
  entry.detail = get<uint32_t>(bytes, 44);
  entry.hash = get<uint64_t>(bytes, 48);
  return plausible(entry);
}

uint64_t log_hash(std::string_view bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

}  // namespace pv::blk
