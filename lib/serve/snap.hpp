// SPDX-License-Identifier: MIT
// A disk's part in the snapshot of its VM, on one connection:
//   snap.prepare  says whether a snapshot can be taken now, and opens the window: until the
//                 connection ends, or the snapshot is there, flushes that only the stopping of the
//                 VM causes are held (serve/flush_gate.hpp)
//   snap.flushes  {"flushes","pending"}: how many have come, and whether one is held
//   snap.save     {"dir","final","pending_flush"}: the disk's instant, into an empty directory; the
//                 reply is its manifest, which serve/snapshot.hpp makes a disk of again
// A disk whose taker is gone goes on as if nothing had been. After a `final` save it takes no
// requests until it is closed, or the connection ends before that. Owned by the disk server, on its
// loop's thread.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>

#include "base/control.hpp"
#include "blk/counters.hpp"
#include "front/front.hpp"
#include "serve/control_ops.hpp"
#include "serve/flush_gate.hpp"
#include "serve/snap_target.hpp"

namespace pv::serve {

class Snap {
 public:
  using ConnectionId = ControlServer::ConnectionId;
  struct Parts {
    Loop& loop;
    blk::Disk& disk;
    FlushGate& gate;
    const blk::Counters& counters;
    front::Front& front;
    ControlOps& ops;
    const Spec& spec;
    std::function<json()> describe;  // what a manifest says of the disk itself
  };
  explicit Snap(const Parts& parts) : parts_(parts) {}

  Result<json> prepare(ConnectionId id);
  Result<json> flushes() const;
  void save(ConnectionId id, const json& request, Reply reply);
  void ended(ConnectionId id);

  // A snapshot is under way: what else is done to a whole disk has to wait.
  bool busy() const { return state_ != State::off; }
  // The disk stands still: what may change it is to be done later.
  bool still() const { return state_ == State::saving || state_ == State::sealed; }
  void later(std::function<void()> what) { later_.push_back(std::move(what)); }
  // The files are the snapshot's: nothing more may be written to them.
  bool sealed() const { return state_ == State::sealed; }

 private:
  enum class State { off, window, saving, sealed };
  Result<> none_held() const;
  bool idle() const;
  void drain(uint64_t save);
  Result<> write();
  void written(const Result<>& result);
  Result<json> manifest() const;
  void go_on();
  void hold_layers(bool on);

  Parts parts_;
  State state_ = State::off;
  ConnectionId holder_ = 0;
  uint64_t deadline_ns_ = 0;
  uint64_t save_ = 0;  // which save is under way
  bool final_ = false, kept_ = false;
  std::optional<Reply> reply_;
  std::unique_ptr<SnapTarget> target_;
  std::deque<std::function<void()>> later_;
};

}  // namespace pv::serve
