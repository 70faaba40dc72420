// SPDX-License-Identifier: MIT
// A vhost-user front end as QEMU is one, for tests: guest memory, virtqueues and the messages that
// hand both to a server. Helpers send what a front end should, in the order in which it should, and
// each can be called by itself, out of order and with wrong values; channel() below them sends
// anything at all. Memory and queues belong to the driver and outlive a connection, so that a test
// can go on with another server.
// One thread. Every wait ends with the time limit of the options; then the error is Code::timeout.
#pragma once

#include <memory>
#include <string>
#include <sys/eventfd.h>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"
#include "channel.hpp"
#include "memory.hpp"
#include "queue.hpp"

namespace pv::test::vhost {

struct Options {
  unsigned queues = 1;
  uint16_t queue_size = 128;
  std::vector<MemoryRegion> regions = default_regions();
  // What is taken of what the server offers.
  uint64_t features = k_f_known & ~k_f_log_all;
  uint64_t protocol_features = k_p_known;
  bool memory_slots = false;  // ADD_MEM_REG for each region, in place of SET_MEM_TABLE
  uint64_t limit_ms = 10'000;
};

class Driver {
 public:
  static Result<std::unique_ptr<Driver>> make(const Options& options = {});

  // --- the connection ---
  // Ends the one it has. Waits for a server that is not there yet.
  Result<> connect(const std::string& path);
  // Hangs up, and waits until the server has done so too: one that takes a single client would turn
  // the next one away until it has noticed. Without this, as when a front end is killed, assign an
  // empty channel.
  void disconnect();
  Channel& channel() { return channel_; }
  // negotiate(), share_memory(), and start_queue() of each one from where its used ring is.
  Result<> start();
  // connect() and start().
  Result<> attach(const std::string& path);

  Memory& memory() { return memory_; }
  Queue& queue(unsigned index = 0) { return queues_[index]; }
  unsigned queues() const { return static_cast<unsigned>(queues_.size()); }
  Deadline deadline() const { return Deadline::in_ms(options_.limit_ms); }
  Options& options() { return options_; }

  // --- messages ---
  // One without an answer of its own. With REPLY_ACK it is acknowledged, and an answer other than
  // zero is Code::invalid; without, success means that it was sent.
  Result<> tell(uint32_t request, std::string payload = {}, std::vector<int> fds = {});
  // One with an answer, which must be a well-formed reply to it.
  Result<Received> ask(uint32_t request, std::string payload = {}, std::vector<int> fds = {});
  Result<uint64_t> ask_u64(uint32_t request);
  // Until the server has seen all that was sent before.
  Result<> settle();

  // SET_OWNER, both sets of features, GET_QUEUE_NUM, and the back end's own channel.
  Result<> negotiate();
  uint64_t offered() const { return offered_; }
  uint64_t features() const { return features_; }
  uint64_t protocol_offered() const { return protocol_offered_; }
  uint64_t protocol_features() const { return protocol_; }
  bool has(uint64_t feature) const { return (features_ & feature) != 0; }
  bool has_protocol(uint64_t feature) const { return (protocol_ & feature) != 0; }
  uint64_t queue_limit() const { return queue_limit_; }  // of GET_QUEUE_NUM; 0: not asked
  Result<> set_features(uint64_t features);

  Result<> share_memory();
  Result<> set_mem_table();
  Result<> add_region(size_t number);  // ADD_MEM_REG
  Result<> remove_region(const MemoryRegion& region);

  Result<> set_vring_num(unsigned index, uint32_t num);
  Result<> set_vring_base(unsigned index, uint32_t base);
  Result<> set_vring_addr(unsigned index, uint32_t flags = 0);
  Result<> set_vring_kick(unsigned index);
  Result<> set_vring_call(unsigned index);
  Result<> set_vring_err(unsigned index);
  Result<> set_vring_enable(unsigned index, bool on);
  // All of these, and a kick.
  Result<> start_queue(unsigned index, uint16_t base);
  // GET_VRING_BASE, which stops it: the index of the next head that the server would have taken.
  Result<uint16_t> stop_queue(unsigned index);

  // The device's configuration space. A refusal (an empty answer) is Code::invalid.
  Result<std::string> get_config(uint32_t offset, uint32_t size);
  Result<> set_config(uint32_t offset, std::string_view bytes, uint32_t flags = 0);

  // --- the back end's own requests ---
  Result<Received> backend_request() { return backend_.receive(deadline()); }
  Result<> answer_backend(const Received& request, uint64_t value);
  Channel& backend() { return backend_; }

  // --- what is in flight, in memory that survives the server ---
  Result<> get_inflight();  // a fresh region, from the server
  Result<> set_inflight();  // hands the one we have to a server
  InflightQueue* inflight(unsigned index);
  InflightState* inflight_state(unsigned index, uint16_t descriptor);

  // --- the log of written pages ---
  // Of all regions. Needs k_f_log_all in set_features() as well, and k_vring_f_log for used rings.
  Result<> set_log();
  Result<> set_log_fd(int eventfd);
  bool logged(uint64_t guest) const;
  void clear_log();

 private:
  explicit Driver(const Options& options) : options_(options) {}
  Result<> open_backend_channel();

  Options options_;
  Memory memory_;
  std::vector<Queue> queues_;
  Channel channel_, backend_;
  uint64_t offered_ = 0, features_ = 0, protocol_offered_ = 0, protocol_ = 0, queue_limit_ = 0;
  Fd inflight_fd_;
  Mapping inflight_bytes_;
  Inflight inflight_area_{};
  Mapping log_;
};

}  // namespace pv::test::vhost
