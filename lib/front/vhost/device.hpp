// SPDX-License-Identifier: MIT
// One client's conversation: messages are taken one by one, set up its memory and its queues, and
// are answered. A client that says what cannot be is told so where it has asked to be told
// (REPLY_ACK), and is hung up on otherwise. On the loop's thread; it stays alive until the last
// request in flight has come back, also after the client has gone.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "front/vhost/channel.hpp"
#include "front/vhost/handover.hpp"
#include "front/vhost/queue.hpp"
#include "front/vhost/session.hpp"

namespace pv::vhost {

class Device {
 public:
  // `on_gone` is called when the client has gone, or was hung up on, and on each request that comes
  // back after that; once nothing is in flight the device may be deleted, though not from there.
  Device(Ground& ground, Fd socket, uint32_t number, std::function<void()> on_gone);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  Result<> start();
  // In place of start(): what was said to somebody else before, and the first message for us.
  Result<> take_over(std::vector<Said> said);
  void hang_up();
  bool is_gone() const { return session_.gone; }
  size_t in_flight() const;

  void run_all();  // takes what has come during a pause
  void thaw();
  void config_changed();

 private:
  struct Entry;
  static const Entry k_messages[];

  void ready(uint32_t events);
  void handle(Message& message);
  Result<> carry_out(Message& message);
  void finish(const Result<>& result);
  Result<> reply(std::string_view payload, int fd = -1);
  Result<> reply_u64(uint64_t value) {
    return reply({reinterpret_cast<const char*>(&value), sizeof value});
  }
  void wait();
  void go_on();
  Result<Queue*> queue(uint64_t index);
  void complain(const std::string& what);

  // messages.cpp
  Result<> get_features(Message& m);
  Result<> set_features(Message& m);
  Result<> set_owner(Message& m);
  Result<> reset_owner(Message& m);
  Result<> reset_device(Message& m);
  Result<> get_protocol_features(Message& m);
  Result<> set_protocol_features(Message& m);
  Result<> get_queue_num(Message& m);
  Result<> get_max_mem_slots(Message& m);
  Result<> get_config(Message& m);
  Result<> set_config(Message& m);
  Result<> set_backend_req_fd(Message& m);
  // memory_messages.cpp
  Result<> set_mem_table(Message& m);
  Result<> add_mem_reg(Message& m);
  Result<> rem_mem_reg(Message& m);
  Result<> use_memory(std::shared_ptr<const Memory> memory);
  Result<> set_log_base(Message& m);
  Result<> set_log_fd(Message& m);
  Result<> get_inflight_fd(Message& m);
  Result<> set_inflight_fd(Message& m);
  // ring_messages.cpp
  Result<> set_vring_num(Message& m);
  Result<> set_vring_addr(Message& m);
  Result<> set_vring_base(Message& m);
  Result<> get_vring_base(Message& m);
  Result<> set_vring_kick(Message& m);
  Result<> set_vring_call(Message& m);
  Result<> set_vring_err(Message& m);
  Result<> set_vring_enable(Message& m);
  Result<Queue*> queue_of_fd(Message& m, Fd& fd);
  void stop_all(std::function<void()> idle);

  Session session_;
  Channel channel_;
  std::function<void()> on_gone_;
  Header asking_{};       // the message that is being answered
  bool waiting_ = false;  // for what is in flight, before it can be
  int complaints_ = 0;
  uint64_t protocol_ = 0;
  Fd backend_channel_;
  std::shared_ptr<InflightMap> inflight_;
  std::vector<std::unique_ptr<Queue>> queues_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace pv::vhost
