// SPDX-License-Identifier: MIT
#include "blk/private.hpp"

#include <cerrno>
#include <cstdlib>
#include <deque>
#include <utility>

#include "base/json.hpp"
#include "blk/child.hpp"
#include "blk/segments.hpp"

namespace pv::blk {
namespace {

constexpr size_t k_alignment = 4096;    // what O_DIRECT below may ask for
constexpr size_t k_pooled = 256 << 10;  // a buffer that is larger is not kept

struct Free {
  void operator()(char* bytes) const { std::free(bytes); }
};

class Private final : public Forward {
 public:
  Private(std::unique_ptr<Disk> lower, bool always) : Forward(std::move(lower)), always_(always) {}

  void submit(Request& request) override {
    const bool has_data = request.op == Op::read || request.op == Op::write;
    if (!request.shared || !has_data || !(always_ || lower().looks_at(request)))
      return lower().submit(request);
    if (waiting_.empty() && has_room(request)) return begin(request);
    waiting_.push_back(&request);
  }

 private:
  struct Flight {
    Request child;
    Request* parent = nullptr;
    Private* layer = nullptr;
    std::unique_ptr<char[], Free> bytes;
    size_t capacity = 0;
    iovec piece{};
  };

  bool has_room(const Request& request) const {
    return held_ == 0 || held_ + request.length <= k_private_bytes;
  }

  void begin(Request& request) {
    Flight* flight = flights_.take();
    flight->parent = &request;
    flight->layer = this;
    if (!reserve(*flight, request.length)) {
      flights_.give(flight);
      return request.done(request, ENOMEM);
    }
    held_ += request.length;
    if (request.op == Op::write) gather(request, 0, flight->bytes.get(), request.length);
    flight->piece = {flight->bytes.get(), request.length};
    make_child(flight->child, request, flight, [](Request& child, int error) {
      auto& done = *static_cast<Flight*>(child.owner);
      done.layer->completed(done, error);
    });
    flight->child.data = &flight->piece;
    flight->child.segments = 1;
    flight->child.shared = false;
    lower().submit(flight->child);
  }

  static bool reserve(Flight& flight, size_t length) {
    if (flight.capacity >= length) return true;
    const size_t capacity = (length + k_alignment - 1) / k_alignment * k_alignment;
    flight.bytes.reset(static_cast<char*>(std::aligned_alloc(k_alignment, capacity)));
    flight.capacity = flight.bytes ? capacity : 0;
    return flight.bytes != nullptr;
  }

  // What was lent is not in our memory: whoever took it hands it out.
  void completed(Flight& flight, int error) {
    Request& request = *flight.parent;
    const bool lent = request.loan != nullptr &&
                      (request.loan->kind == Loan::memory || request.loan->kind == Loan::piped);
    if (request.op == Op::read && error == 0 && !lent)
      scatter(request, 0, flight.bytes.get(), request.length);
    held_ -= request.length;
    if (flight.capacity > k_pooled) {
      flight.bytes.reset();
      flight.capacity = 0;
    }
    flights_.give(&flight);
    begin_waiting();
    request.done(request, error);
  }

  // One that is answered at once does not begin the next from within its own answer.
  void begin_waiting() {
    if (std::exchange(beginning_, true)) return;
    while (!waiting_.empty() && has_room(*waiting_.front())) {
      Request* next = waiting_.front();
      waiting_.pop_front();
      begin(*next);
    }
    beginning_ = false;
  }

  const bool always_;
  Pool<Flight> flights_;
  std::deque<Request*> waiting_;  // bounded by the front ends
  size_t held_ = 0;               // bytes of requests in flight
  bool beginning_ = false;
};

}  // namespace

std::unique_ptr<Disk> make_private(std::unique_ptr<Disk> lower, bool always) {
  return std::make_unique<Private>(std::move(lower), always);
}

}  // namespace pv::blk
