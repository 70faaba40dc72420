// SPDX-License-Identifier: MIT
// The file of a write log while it grows. Entries are gathered in pieces of memory and written by
// the asynchronous back end in large batches, one call at a time, so that the file is at every
// moment the beginning of the log. What waits is bounded: whoever adds asks room() first.
//
// A log that cannot be written is broken from then on: what is in the file stays and is good, what
// comes later is dropped, and the head says so where it can still be written. Nothing here fails a
// request. Owned by the layer, on the loop's thread.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "blk/backend/async_io.hpp"
#include "blk/record/format.hpp"

namespace pv::blk {

class LogWriter {
 public:
  struct Parts {
    Fd fd;
    std::string path;
    LogHead head;
    uint64_t end = k_log_head;  // where the next entry goes
  };
  static constexpr size_t k_piece = 1 << 20;  // bytes of a piece of memory
  static constexpr size_t k_pieces = 16;

  // `on_progress` runs when more is in the file than before, or the log has broken.
  LogWriter(Parts parts, const Env& env, AsyncIo& io, std::function<void()> on_progress);
  // Writes what is left and closes the log in order.
  ~LogWriter();
  LogWriter(const LogWriter&) = delete;
  LogWriter& operator=(const LogWriter&) = delete;

  // Whether an entry of so many bytes may be added now; one that is larger than all room may when
  // nothing else waits.
  bool room(uint64_t bytes) const {
    return pieces_.empty() || pieces_.size() + (bytes + k_piece - 1) / k_piece <= k_pieces;
  }
  // Fills in `data_len` and `hash`. The data is the request's, or a text.
  void add(LogEntry& entry, const Request& request);
  void add(LogEntry& entry, std::string_view data = {});

  void push();       // starts writing whatever there is
  void write_now();  // and has it written on return, by this thread

  // What the edges of the disk are, for a log that is about to be closed.
  void set_last_edges(uint64_t edges);

  uint64_t end() const { return end_; }          // of what was added
  uint64_t written() const { return written_; }  // of what is in the file
  int error() const { return error_; }           // 0, or why it is broken
  const std::string& path() const { return parts_.path; }

 private:
  struct Piece {
    std::unique_ptr<char[]> bytes;
    uint64_t at = 0;  // in the file
    size_t used = 0;
    bool closed = false;  // a call has it: what comes next goes into another one
  };

  void put(const char* bytes, size_t count);
  void put_head_of(LogEntry& entry);
  void pad();
  void start();
  void called(int64_t result);
  void forget_written();
  void break_off(int error);
  void save_head();
  std::vector<iovec> unwritten(bool partial) const;

  Parts parts_;
  const Env env_;
  AsyncIo& io_;
  std::function<void()> on_progress_;
  std::deque<Piece> pieces_;  // in order; the last one is being filled
  std::vector<std::unique_ptr<char[]>> free_;
  uint64_t end_, written_;
  AsyncCall call_;
  std::vector<iovec> data_;  // of the call
  bool calling_ = false;
  bool pushed_ = false;   // the last piece is to be written although it is not full
  bool closing_ = false;  // everything has been written, a call is waited for
  TimerId timer_ = 0;
  int error_ = 0;
};

}  // namespace pv::blk
