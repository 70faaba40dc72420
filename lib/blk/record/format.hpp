// SPDX-License-Identifier: MIT
// What a write log looks like in its file (pv-layers(7), record): bytes in, values out. Knows no
// files and no disks.
//
// A head of 4096 bytes, then entries one behind the other: 64 bytes, the data, and zeroes up to the
// next multiple of 8. A request is an entry when it is submitted and another one when it completes,
// so that both orders are in the log. Every entry has a checksum that covers its place in this very
// log, and its data has one: whatever stands before the first entry that is wrong can be used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "blk/disk.hpp"

namespace pv::blk {

constexpr uint64_t k_log_head = 4096;
constexpr size_t k_log_entry = 64;
constexpr uint64_t k_log_max_data = 64 << 20;  // of one entry
constexpr size_t k_log_max_mark = 64 << 10;    // bytes of a mark

struct LogHead {
  enum State : uint32_t { recording = 0, closed = 1, broken = 2 };
  uint64_t id = 0;        // chance: entries of another log are noticed
  uint64_t size = 0;      // of the disk when the log began; 0: not known (imported)
  uint64_t edges = 0;     // XXH3 of its first and last 64 KiB then
  uint64_t began_ns = 0;  // wall time
  uint32_t sector_size = 512;
  DiskId disk{};
  DiscardBehaviour discard = DiscardBehaviour::zeroes;
  bool knows_edges = false;
  State state = recording;
  uint32_t error = 0;  // why it is broken: errno
  // Of a log that was closed in order: where it ended then, and what the edges of the disk were.
  uint64_t end = 0, last_edges = 0;
  bool knows_last_edges = false;
};

enum class LogKind : uint8_t { write = 1, zero, discard, flush, mark, resize, done, session };
constexpr int k_log_kinds = 9;
const char* log_kind_name(LogKind kind);
const char* log_state_name(LogHead::State state);

// Gap, of a session: the disk may have changed since the entry before, and nobody knows how.
enum LogFlag : uint8_t { k_log_fua = 1, k_log_no_unmap = 2, k_log_metadata = 4, k_log_gap = 8 };

struct LogEntry {
  LogKind kind = LogKind::write;
  uint8_t flags = 0;
  uint64_t n = 0;     // of the request, from 1 without gaps; `done` has that of its request
  uint64_t t_ns = 0;  // since the log began
  uint64_t offset = 0;
  uint64_t length = 0;    // of the range; resize: the new size
  uint32_t data_len = 0;  // bytes that follow
  uint32_t detail = 0;    // submitted: the connection; done: the errno
  uint64_t hash = 0;      // XXH3 of the data

  // Bytes in the file, with data and padding.
  uint64_t room() const { return k_log_entry + (uint64_t{data_len} + 7) / 8 * 8; }
};

void encode_log_head(const LogHead& head, char* bytes);
// False when it is none of ours, of another version, damaged, or has values that no log has.
bool decode_log_head(const char* bytes, LogHead& head);

// `at` is where the entry stands in the file.
void encode_log_entry(const LogEntry& entry, uint64_t log_id, uint64_t at, char* bytes);
bool decode_log_entry(const char* bytes, uint64_t log_id, uint64_t at, LogEntry& entry);

uint64_t log_hash(std::string_view bytes);

}  // namespace pv::blk
