// SPDX-License-Identifier: MIT
// Stands between the front ends and the stack, and passes everything on. While a snapshot is
// being taken it answers flushes itself where carrying them out would change what the snapshot is
// to show: a VM that is stopped flushes its disks, which would empty a volatile cache and be seen
// by fault rules. Such a flush is remembered; it is carried out before the next change, because
// then it was the guest's, or when the snapshot's taker says so. What comes by vhost-user is the
// guest's own in any case: QEMU has no hand in it. On the loop's thread.
#pragma once

#include <functional>
#include <vector>

#include "blk/disk.hpp"

namespace pv::serve {

class FlushGate final : public blk::Disk {
 public:
  explicit FlushGate(blk::Disk& below) : below_(below) {}

  const blk::Geometry& geometry() const override { return below_.geometry(); }
  void submit(blk::Request& request) override {
    if (request.op == blk::Op::flush && counts(request)) ++flushes_;
    if (!holding_ && waiting_.empty() && !carrying_) return below_.submit(request);
    look(request);
  }
  Result<json> control(const json& request) override { return below_.control(request); }
  Result<> resize(uint64_t size) override { return below_.resize(size); }
  void inspect(json& out) const override { below_.inspect(out); }

  // From here on flushes that matter are answered and remembered.
  void hold() { holding_ = true; }
  // No longer; what is remembered is carried out.
  void let_go();
  // What is remembered is carried out, or was not meant.
  void carry_out();
  void forget() { pending_ = false; }

  // Whether something waits for a flush of ours.
  bool busy() const { return carrying_ || !waiting_.empty(); }
  bool pending() const { return pending_; }
  // How many flushes have come so far that may be QEMU's.
  uint64_t flushes() const { return flushes_; }
  // Of the last flush that was carried out: 0 or its errno. Nobody else hears of it.
  int last_error() const { return error_; }

 private:
  static bool counts(const blk::Request& request) { return request.front != blk::Front::vhost; }
  void look(blk::Request& request);
  bool matters() const;
  void carried(int error);

  blk::Disk& below_;
  uint64_t flushes_ = 0;
  bool holding_ = false, pending_ = false, carrying_ = false;
  int error_ = 0;
  uint32_t connection_ = 0;  // who has sent the flush that is remembered
  blk::Front front_ = blk::Front::host;
  blk::Request flush_;
  std::vector<blk::Request*> waiting_;  // changes; as many as the front end lets in
};

}  // namespace pv::serve
