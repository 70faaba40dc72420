// SPDX-License-Identifier: MIT
// JSON objects, one a line, in files that a reader can follow. Bounded: there are at most
// k_segments files, the oldest goes first, and how many lines have gone is told. Written by the
// layer that owns it; commands read the files.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "base/fd.hpp"
#include "base/json.hpp"
#include "base/result.hpp"

namespace pv::blk {

class LineJournal {
 public:
  static constexpr int k_segments = 4;
  static constexpr uint64_t k_default_bytes = 64 << 20;  // of all segments

  // Files in `dir` that go with it, called `name`; dir "": in memory.
  LineJournal(std::string dir, std::string name, uint64_t bytes);
  ~LineJournal();
  LineJournal(const LineJournal&) = delete;
  LineJournal& operator=(const LineJournal&) = delete;

  uint64_t last() const { return last_; }
  // An empty journal goes on from another one's last event; those before it are gone.
  void continue_after(uint64_t last) {
    last_ = before_ = last;
    buffered_from_ = last + 1;
  }
  // Goes on with the files of a journal whose process was killed: `prefix` is what it said, `last`
  // its last event. A line that was cut is taken away.
  void adopt(const std::string& prefix, uint64_t last);
  // What its files' names begin with; "" before there is one.
  const std::string& prefix() const { return prefix_; }
  // A line of the caller's making, which begins with {"n":N, where N is last() + 1 beforehand.
  template <class Format>
  uint64_t add_line(Format&& format) {
    format(buffer_, ++last_);
    buffer_ += '\n';
    if (buffer_.size() >= k_buffer) write_out();
    return last_;
  }
  void write_out();
  // {"files":[{"path","first","last"}],"last","dropped"}, after writing out; with "write_error"
  // when a file could not be written and events are missing for that.
  json where();

 private:
  static constexpr size_t k_buffer = 128 << 10;
  struct Segment {
    Fd file;
    std::string path;
    uint64_t first = 0, bytes = 0;
  };
  bool open_file(Segment& segment);
  bool begin_segment();
  void drop_oldest();

  std::string dir_;
  std::string name_;
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
