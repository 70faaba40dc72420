// SPDX-License-Identifier: MIT
#include "serve/flush_gate.hpp"

#include <utility>

#include "base/json.hpp"

namespace pv::serve {

// A cache has something to lose by it, or a rule would see it.
bool FlushGate::matters() const {
  return below_.control({{"op", "state.flush_matters"}}).has_value();
}

void FlushGate::look(blk::Request& request) {
  if (request.op == blk::Op::flush && counts(request) && holding_ && matters()) {
    pending_ = true;
    connection_ = request.connection;
    front_ = request.front;
    return request.done(request, 0);
  }
  if (!blk::changes_data(request.op) || !(pending_ || busy())) return below_.submit(request);
  waiting_.push_back(&request);
  if (!carrying_) carry_out();
}

void FlushGate::carry_out() {
  if (carrying_ || !std::exchange(pending_, false)) return;
  carrying_ = true;
  flush_ = blk::Request{};
  flush_.op = blk::Op::flush;
  flush_.front = front_;
  flush_.connection = connection_;
  flush_.owner = this;
  flush_.done = [](blk::Request& request, int error) {
    static_cast<FlushGate*>(request.owner)->carried(error);
  };
  below_.submit(flush_);
}

void FlushGate::carried(int error) {
  carrying_ = false;
  error_ = error;
  for (blk::Request* request : std::exchange(waiting_, {})) submit(*request);
}

void FlushGate::let_go() {
  holding_ = false;
  carry_out();
}

}  // namespace pv::serve
