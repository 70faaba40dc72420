// SPDX-License-Identifier: MIT
// Two legs that should hold the same: the disk below is under test, the other one is the reference.
// Every operation goes to both at once; what they read is compared, and so is how they end. What
// differs becomes a record in a journal and never the end of a process (watch.hpp says what the
// guest gets). Owned by its stack, on the loop's thread like every layer.
//
// Requests that overlap, one of which changes something, go one after another (range_lock.hpp).
//
// mirror.cpp is the way of a request, mirror_records.cpp what is written down of it,
// mirror_control.cpp the conversation and the layer's keys, scrub.cpp the comparison in the
// background, start_check.cpp the one before the first request.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "blk/child.hpp"
#include "blk/mirror/borrowed.hpp"
#include "blk/mirror/explain.hpp"
#include "blk/mirror/range_lock.hpp"
#include "blk/mirror/scrub.hpp"
#include "blk/mirror/undefined.hpp"
#include "blk/mirror/watch.hpp"
#include "blk/mirror/writes.hpp"

namespace pv::blk {

class Mirror final : public Forward {
 public:
  struct Options {
    Watch::Options watch;
    uint64_t scrub_bytes_per_s = 0;  // 0: not
  };
  Mirror(std::unique_ptr<Disk> test, std::unique_ptr<Disk> reference, const Env& env,
         const Options& options);

  const Geometry& geometry() const override { return geometry_; }
  void submit(Request& request) override;
  Result<json> control(const json& request) override;
  Result<> resize(uint64_t size) override;
  void inspect(json& out) const override;
  Result<> save_state(StateOut& out) override;

 private:
  using Side = Writes::Side;
  struct Leg {
    Request child;
    Injected injected;
    int error = 0;
    Loan loan;
    std::vector<Extent> extents;
  };
  struct Flight {
    Mirror* mirror = nullptr;
    Request* parent = nullptr;
    RangeLock::Place place;
    Watch::Asker asker;
    std::array<Leg, 2> legs;
    int pending = 0;
    uint64_t number = 0;             // of the request, from 1
    uint64_t serial = 0;             // of a change, in writes_
    bool plain = false;              // what is lent cannot be looked at: read it
    bool filling = false;            // a discard, which zeroes follow on a leg
    bool left_open = false;          // and they could not be written
    int outcome = 0;                 // what is answered unless the policy says otherwise
    std::unique_ptr<char[]> buffer;  // what the reference reads
    uint64_t room = 0;
    iovec piece{};
  };

  // mirror.cpp
  void refresh();
  void start(Flight& flight);
  void submit_to(Flight& flight, Side side);
  void both_done(Flight& flight);
  bool fill_discarded(Flight& flight);
  Writes::Write::Content content_after(Op op) const;
  void changed(Flight& flight);
  void compare(Flight& flight);
  Compared compare_bytes(const Flight& flight) const;
  bool is_news(const Flight& flight, const std::string& test, const std::string& reference,
               const std::vector<ByteSpan>& spans);
  void learn(const Flight& flight);
  bool collect(const Flight& flight, Side side, std::string& bytes) const;
  void compare_closely(Flight& flight);
  bool give_one(Flight& flight, Side side);
  void give_lent(Flight& flight);
  void read_again(Flight& flight);
  void give_extents(Flight& flight);
  void settle(Flight& flight, int error);
  void finish(Flight& flight, int error);
  void keep_or_drop_buffer(Flight& flight);

  // mirror_records.cpp
  void record_mismatch(Flight& flight, const std::string& test, const std::string& reference,
                       const std::vector<ByteSpan>& spans);
  json shown_mishap(const Flight& flight, const Mishap& mishap, std::string_view test,
                    std::string_view reference) const;
  void record_status(Flight& flight);
  json shown(const Flight& flight) const;
  void add_rules(json& record, const Flight& flight) const;
  bool look_outside();
  json state() const;

  std::unique_ptr<Disk> reference_;
  Env env_;
  Geometry geometry_;
  bool same_discard_ = false;    // both legs read alike after one
  std::array<bool, 2> fills_{};  // by leg: zeroes follow a discard
  Watch watch_;
  Writes writes_;
  RangeLock lock_;
  UndefinedMap undefined_;
  Scrub scrub_;
  Pool<Flight> flights_;
  uint64_t requests_ = 0;
  uint64_t compared_bytes_ = 0;
  int changing_ = 0;              // changes and flushes that are under way
  uint64_t changed_wall_ns_ = 0;  // when the last of them had ended
  struct File {
    uint64_t device = 0, inode = 0, bytes = 0, mtime_ns = 0;  // no inode: none that is known
  };
  File reference_file() const;
  File reference_file_;           // as it was at the start
  bool changed_outside_ = false;  // it was, by somebody else
};

// Code::invalid with the first difference. Drives `loop`, where there is one, until it knows.
Result<> check_identical(Disk& test, Disk& reference, Loop* loop);

}  // namespace pv::blk
