// SPDX-License-Identifier: MIT
// The operations of a disk server's control socket, one JSON object each way:
//   info | stats | settle | read | write | flush | discard | zero | map | cache
//   and what only layers know, such as fault.*, reserve.*; of their replies, "with_disk" asks for
//   `disk` too
// Data is in "b64", or, with "raw" (read) and "raw_bytes" (write), in bytes after the line.
// Host reads and writes go through the whole stack, so they meet the same faults as the guest.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "base/control.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "blk/counters.hpp"
#include "blk/disk.hpp"

namespace pv::serve {

constexpr uint64_t k_max_host_io = 16 << 20;  // bytes in one request

using Reply = ControlServer::Reply;

// When a request with "timeout_ms" (default: half a minute) has waited long enough.
uint64_t deadline_ns_of(const json& request);

class ControlOps {
 public:
  // `info` makes the current `disk` document. All outlive this object.
  ControlOps(blk::Disk& disk, blk::Counters& counters, std::function<json()> info)
      : disk_(disk), counters_(counters), info_(std::move(info)) {}

  void handle(const json& request, std::string raw, Reply reply);

  // Between these, I/O waits to be begun; what is in flight goes on.
  void pause() { paused_ = true; }
  void resume();
  // From freeze() on also answers to what is in flight wait. thaw() gives them and resumes; after
  // cut() they are errors, and so is everything that was in flight.
  void freeze();
  void cut();
  void thaw();
  size_t in_flight() const { return in_flight_; }

 private:
  struct HostIo;
  void settle(const Reply& reply);
  bool has_fault_layer() const;
  void handle_other(const json& request, const Reply& reply);
  void start_io(blk::Op op, const json& request, std::string raw, Reply reply);
  void submit(std::shared_ptr<HostIo> io);
  void merge_edges(std::shared_ptr<HostIo> io);
  static void done(blk::Request& request, int error);
  void finish(HostIo& io, int error);
  void answer(HostIo& io, int error);

  blk::Disk& disk_;
  blk::Counters& counters_;
  std::function<json()> info_;
  bool paused_ = false;
  bool frozen_ = false;
  bool cut_ = false;
  std::deque<std::function<void()>> waiting_;
  std::deque<std::function<void()>> finished_;  // while frozen
  size_t in_flight_ = 0;
};

// What a failed request is called outside: out_of_range, read_only, io with the errno and, when a
// rule did it, its id and phase.
Error io_error(blk::Op op, int error, const blk::Injected& injected);

}  // namespace pv::serve
