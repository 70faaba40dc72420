// SPDX-License-Identifier: MIT
// The record of every decision that a rule made: one JSON object a line, in files that a reader can
// follow. Bounded: there are at most k_segments files of segment_bytes each, the oldest goes first,
// and how many events have gone is told. Written by the layer that owns it; commands read the
// files.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

#include "base/fd.hpp"
#include "base/json_fwd.hpp"
#include "base/result.hpp"
#include "blk/disk.hpp"

namespace pv::blk {

struct JournalEntry {
  uint64_t t_ns = 0;  // since the layer was made
  std::string_view rule;
  const char* kind = "";
  uint64_t match = 0;  // number of the match, from 1
  Op op = Op::read;
  bool connects = false;  // not a request: a client that has come
  Front front = Front::host;
  uint32_t connection = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
  bool waits = false;  // a delay; an outcome has a phase and two statuses instead
  uint64_t delay_ns = 0;
  Phase phase = Phase::before;
  int requested = 0;
  int delivered = 0;
  WireFault::Kind wire = WireFault::none;  // what became of the answer instead
  std::string_view note;                   // further members
};

class Journal {
 public:
  static constexpr int k_segments = 4;
  static constexpr uint64_t k_default_bytes = 64 << 20;  // of all segments

  // Files in `dir` that go with it; "": in memory.
  explicit Journal(std::string dir, uint64_t bytes = k_default_bytes);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  // The number of the event, from 1 without gaps.
  uint64_t add(const JournalEntry& entry);
  uint64_t last() const { return last_; }
  // An empty journal goes on from another one's last event; those before it are gone.
  void continue_after(uint64_t last) {
    last_ = before_ = last;
    buffered_from_ = last + 1;
  }
  void write_out();
  // {"files":[{"path","first","last"}],"last","dropped"}, after writing out; with "write_error"
  // when a file could not be written and events are missing for that.
  json where();

 private:
  struct Segment {
    Fd file;
    std::string path;
    uint64_t first = 0, bytes = 0;
  };
  bool open_file(Segment& segment);
  bool begin_segment();
  void drop_oldest();

  std::string dir_;
  std::string prefix_;
  uint64_t segment_bytes_;
  std::deque<Segment> segments_;
  uint64_t segment_number_ = 0;
  std::string buffer_;
  uint64_t buffered_from_ = 1;  // number of the first event in the buffer
  uint64_t last_ = 0;
  uint64_t before_ = 0;  // the last event of the journal that this one goes on from
  uint64_t lost_ = 0;    // not written
  int error_ = 0;
};

// Events with a number above `since`, at most `max`, oldest first, out of what where() said. An
// event that is not an object in a line of its own ends the reading.
Result<json> read_journal(const json& where, uint64_t since, size_t max);

}  // namespace pv::blk
