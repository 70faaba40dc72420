// SPDX-License-Identifier: MIT
// One queue of a client: heads are taken from the ring, requests go to the disk, and what has come
// back is answered in batches. Owned by a Device, on the loop's thread.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "base/fd.hpp"
#include "blk/child.hpp"
#include "front/vhost/inflight.hpp"
#include "front/vhost/request.hpp"
#include "front/vhost/session.hpp"

namespace pv::vhost {

class Queue {
 public:
  Queue(Session& session, size_t index) : session_(session), index_(index) {}
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  // How it is set up; a queue that runs refuses all but the descriptors and `enable`. It starts
  // with its kick descriptor.
  Result<> set_size(uint32_t size);
  Result<> set_next(uint32_t index);
  Result<> set_addresses(const VringAddr& addresses);
  Result<> set_kick(Fd kick);
  void set_call(Fd call);
  void set_error(Fd error) { error_ = std::move(error); }
  void enable(bool on);
  void set_inflight(std::shared_ptr<InflightMap> map) { inflight_map_ = std::move(map); }
  // There is a new memory table.
  Result<> find_again();

  // Takes nothing more until it is started again; `idle` is called once everything that was taken
  // is answered, which may be at once. Whether it is enabled is another matter.
  void stop(std::function<void()> idle);
  uint16_t next_index() const { return started_ ? ring_.next_index() : next_; }
  // The client is gone: what is in flight comes back and is answered to nobody.
  void abandon();
  size_t in_flight() const { return jobs_.in_use(); }

  // Takes what there is, now or on the loop's next turn.
  void run();
  void run_later();
  // After a freeze: gives the answers that have waited.
  void thaw();

 private:
  struct Job {
    Queue* queue = nullptr;
    uint16_t head = 0;
    Chain chain;
    BlkRequest blk;
    std::shared_ptr<const Memory> memory;
    blk::Request request;
    blk::Loan loan;
    blk::WireFault wire;
    std::vector<blk::Request> parts;  // of a discard or write zeroes, one for each range
    blk::Request settling;            // the flush that stands for a FUA
    size_t parts_left = 0;
    bool to_settle = false;
    int error = 0;
    uint32_t used = 0;
    uint8_t status = 0;
  };

  Result<> place();
  void start();
  bool can_take() const;
  bool take(uint16_t& head);
  void begin(uint16_t head);
  void carry_out(Job& job);
  void identify(Job& job);
  void submit(Job& job, blk::Op op, uint64_t length);
  void submit_parts(Job& job, blk::Op op);
  void prepare(blk::Request& request, Job& job) const;
  void finished(Job& job, int error);
  uint32_t stable_flags(Job& job) const;
  void settle(Job& job);
  bool settle_loan(Job& job);
  void answer(Job& job, uint8_t status, uint32_t used);
  void violate(Job& job);
  void put(Job& job);
  void note_written(const Job& job);
  void release(Job& job);
  void publish();
  void publish_later();
  void report_poison();
  void maybe_idle();

  Session& session_;
  size_t index_;
  Ring ring_;
  uint16_t size_ = 0, next_ = 0;
  VringAddr addresses_{};
  bool placed_ = false, enabled_ = false, started_ = false, told_poison_ = false;
  std::shared_ptr<const Memory> ring_memory_;  // where the ring lies
  Fd kick_, call_, error_;
  std::shared_ptr<InflightMap> inflight_map_;
  Inflight inflight_;
  std::vector<uint16_t> again_;  // heads that a server before us has not answered, newest first
  blk::Pool<Job> jobs_;
  std::vector<Job*> held_;  // answers that wait for the end of a freeze
  bool in_batch_ = false, run_posted_ = false, publish_posted_ = false;
  std::function<void()> idle_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace pv::vhost
