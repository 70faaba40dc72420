// SPDX-License-Identifier: MIT
// The conversation as such: one message after the other, each with its answer. (What they mean is
// in the files *_messages.cpp.)
#include "front/vhost/device.hpp"

#include <algorithm>
#include <cstdio>

#include <fmt/format.h>

#include "front/vhost/config.hpp"

namespace pv::vhost {

// Every message there is: what handles it, and whether its answer says more than "done".
struct Device::Entry {
  uint32_t ask;
  const char* name;
  Result<> (Device::*handle)(Message&);
  bool answers = false;
  uint64_t needs = 0;  // protocol features
};

const Device::Entry Device::k_messages[] = {
    {k_get_features, "GET_FEATURES", &Device::get_features, true},
    {k_set_features, "SET_FEATURES", &Device::set_features},
    {k_set_owner, "SET_OWNER", &Device::set_owner},
    {k_reset_owner, "RESET_OWNER", &Device::reset_owner},
    {k_reset_device, "RESET_DEVICE", &Device::reset_device, false, k_proto_reset_device},
    {k_get_protocol_features, "GET_PROTOCOL_FEATURES", &Device::get_protocol_features, true},
    {k_set_protocol_features, "SET_PROTOCOL_FEATURES", &Device::set_protocol_features},
    {k_get_queue_num, "GET_QUEUE_NUM", &Device::get_queue_num, true, k_proto_mq},
    {k_get_max_mem_slots, "GET_MAX_MEM_SLOTS", &Device::get_max_mem_slots, true, k_proto_mem_slots},
    {k_get_config, "GET_CONFIG", &Device::get_config, true, k_proto_config},
    {k_set_config, "SET_CONFIG", &Device::set_config, false, k_proto_config},
    {k_set_backend_req_fd, "SET_BACKEND_REQ_FD", &Device::set_backend_req_fd, false,
     k_proto_backend_req},
    {k_set_mem_table, "SET_MEM_TABLE", &Device::set_mem_table},
    {k_add_mem_reg, "ADD_MEM_REG", &Device::add_mem_reg, false, k_proto_mem_slots},
    {k_rem_mem_reg, "REM_MEM_REG", &Device::rem_mem_reg, false, k_proto_mem_slots},
    {k_set_log_base, "SET_LOG_BASE", &Device::set_log_base, true, k_proto_log_shmfd},
    {k_set_log_fd, "SET_LOG_FD", &Device::set_log_fd},
    {k_get_inflight_fd, "GET_INFLIGHT_FD", &Device::get_inflight_fd, true, k_proto_inflight},
    {k_set_inflight_fd, "SET_INFLIGHT_FD", &Device::set_inflight_fd, false, k_proto_inflight},
    {k_set_vring_num, "SET_VRING_NUM", &Device::set_vring_num},
    {k_set_vring_addr, "SET_VRING_ADDR", &Device::set_vring_addr},
    {k_set_vring_base, "SET_VRING_BASE", &Device::set_vring_base},
    {k_get_vring_base, "GET_VRING_BASE", &Device::get_vring_base, true},
    {k_set_vring_kick, "SET_VRING_KICK", &Device::set_vring_kick},
    {k_set_vring_call, "SET_VRING_CALL", &Device::set_vring_call},
    {k_set_vring_err, "SET_VRING_ERR", &Device::set_vring_err},
    {k_set_vring_enable, "SET_VRING_ENABLE", &Device::set_vring_enable},
};

Device::Device(Ground& ground, Fd socket, uint32_t number, std::function<void()> on_gone)
    : session_{ground, number}, channel_(std::move(socket)), on_gone_(std::move(on_gone)) {
  session_.hang_up = [this] { hang_up(); };
  session_.came_back = on_gone_;
}

Device::~Device() {
  *alive_ = false;
  if (!session_.gone) session_.ground.loop.unwatch(channel_.fd());
}

Result<> Device::start() {
  return session_.ground.loop.watch(channel_.fd(), EPOLLIN,
                                    [this](uint32_t events) { ready(events); });
}

void Device::hang_up() {
  if (std::exchange(session_.gone, true)) return;
  session_.ground.loop.unwatch(channel_.fd());
  channel_.close();
  backend_channel_.reset();
  for (const auto& queue : queues_)
    if (queue) queue->abandon();
  on_gone_();
}

size_t Device::in_flight() const {
  size_t sum = 0;
  for (const auto& queue : queues_)
    if (queue) sum += queue->in_flight();
  return sum;
}

void Device::run_all() {
  for (const auto& queue : queues_)
    if (queue) queue->run_later();
}

void Device::thaw() {
  for (const auto& queue : queues_)
    if (queue) queue->thaw();
}

void Device::config_changed() {
  session_.news = true;
  if (session_.gone || !backend_channel_) return;
  // A front end that does not read has a full socket, and will ask for the size some time.
  static_cast<void>(send_message(backend_channel_.get(), {k_config_change_msg, k_version, 0}, ""));
}

void Device::ready(uint32_t events) {
  // One that waits for an answer may leave, too: that is told whatever we watch for.
  if (waiting_ && (events & (EPOLLHUP | EPOLLERR)) != 0) return hang_up();
  // A client that never stops talking has its turn like everybody else.
  constexpr int k_turn = 64;
  for (int taken = 0; taken < k_turn && !session_.gone && !waiting_; ++taken) {
    auto message = channel_.receive();
    if (!message) {
      if (message.error().code != Code::io) complain(message.error().message);
      return hang_up();
    }
    if (*message == nullptr) return;
    handle(**message);
  }
}

void Device::handle(Message& message) {
  asking_ = message.header;
  auto result = carry_out(message);
  if (!waiting_) finish(result);
}

Result<> Device::take_over(std::vector<Said> said) {
  TRY(start());
  const auto message = std::make_unique<Message>();
  for (Said& one : said) {
    if (session_.gone) break;
    one.to(*message);
    handle(*message);
  }
  return {};
}

Result<> Device::carry_out(Message& message) {
  const auto* entry = std::find_if(std::begin(k_messages), std::end(k_messages),
                                   [&](const Entry& e) { return e.ask == message.header.request; });
  if (entry == std::end(k_messages))
    return fail(Code::unsupported, fmt::format("request {}", message.header.request));
  if ((protocol_ & entry->needs) != entry->needs)
    return fail(Code::invalid, fmt::format("{}, which was not negotiated", entry->name));
  auto result = (this->*entry->handle)(message);
  if (!result)
    return fail(result.error().code, fmt::format("{}: {}", entry->name, result.error().message));
  return result;
}

// The end of a message: where it has an answer of its own, that was it.
void Device::finish(const Result<>& result) {
  if (session_.gone) return;
  if (!result) complain(result.error().message);
  const auto* entry = std::find_if(std::begin(k_messages), std::end(k_messages),
                                   [&](const Entry& e) { return e.ask == asking_.request; });
  const bool answers = entry != std::end(k_messages) && entry->answers;
  const bool wants_word =
      (asking_.flags & k_need_reply) != 0 && (protocol_ & k_proto_reply_ack) != 0;
  if (answers ? !result : !result && !wants_word) return hang_up();
  if (!answers && wants_word && !reply_u64(result ? 0 : 1)) hang_up();
}

Result<> Device::reply(std::string_view payload, int fd) {
  return channel_.reply(asking_.request, payload, fd);
}

// A message whose answer has to wait, and with it those behind it. Whoever waits answers it.
void Device::wait() {
  waiting_ = true;
  session_.ground.loop.change(channel_.fd(), 0);
}

// Not at once: the wait may end in the middle of the message's own handler.
void Device::go_on() {
  session_.ground.loop.post([this, alive = alive_] {
    if (!*alive || session_.gone) return;
    waiting_ = false;
    session_.ground.loop.change(channel_.fd(), EPOLLIN);
    ready(0);
  });
}

Result<Queue*> Device::queue(uint64_t index) {
  if (index >= k_max_queues) return fail(Code::invalid, fmt::format("queue {}", index));
  if (queues_.size() <= index) queues_.resize(index + 1);
  if (!queues_[index]) queues_[index] = std::make_unique<Queue>(session_, index);
  return queues_[index].get();
}

// Into the server's log, which a client is not to fill.
void Device::complain(const std::string& what) {
  constexpr int k_most = 20;
  if (++complaints_ > k_most) return;
  fmt::print(stderr, "vhost-user client {}: {}\n", session_.number, what);
}

}  // namespace pv::vhost
