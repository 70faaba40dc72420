// SPDX-License-Identifier: MIT
// Messages about the device as a whole. (Part of Device.)
#include <algorithm>

#include <fmt/format.h>

#include "front/vhost/config.hpp"
#include "front/vhost/device.hpp"

namespace pv::vhost {

namespace {
Error wrong_length() {
  return {Code::invalid, "a message of a wrong length"};
}
}  // namespace

Result<> Device::get_features(Message&) {
  return reply_u64(features_of(session_.ground.disk.geometry()));
}

Result<> Device::set_features(Message& m) {
  uint64_t features = 0;
  if (!m.get(features)) return fail(wrong_length());
  if ((features & ~features_of(session_.ground.disk.geometry())) != 0)
    return fail(Code::invalid, fmt::format("features {:#x} that were not offered", features));
  session_.features = features;
  // Without the protocol's features there is no message that enables a queue.
  if (!session_.has(k_f_protocol))
    for (const auto& queue : queues_)
      if (queue) queue->enable(true);
  return {};
}

Result<> Device::set_owner(Message&) {
  return {};
}

// Out of use; what it once meant is that no queue runs.
Result<> Device::reset_owner(Message&) {
  for (const auto& queue : queues_)
    if (queue) queue->enable(false);
  return {};
}

Result<> Device::reset_device(Message&) {
  session_.writeback = true;
  wait();
  stop_all([this] {
    for (const auto& queue : queues_)
      if (queue) queue->enable(false);
    session_.features = 0;
    finish({});
    go_on();
  });
  return {};
}

Result<> Device::get_protocol_features(Message&) {
  return reply_u64(k_protocol_features);
}

Result<> Device::set_protocol_features(Message& m) {
  uint64_t features = 0;
  if (!m.get(features)) return fail(wrong_length());
  if ((features & ~k_protocol_features) != 0)
    return fail(Code::invalid,
                fmt::format("protocol features {:#x} that were not offered", features));
  protocol_ = features;
  return {};
}

Result<> Device::get_queue_num(Message&) {
  return reply_u64(k_max_queues);
}

Result<> Device::get_max_mem_slots(Message&) {
  return reply_u64(k_max_slots);
}

// An answer without bytes says that there are none such.
Result<> Device::get_config(Message& m) {
  ConfigHead head{};
  if (m.header.size < sizeof head) return fail(wrong_length());
  std::memcpy(&head, m.payload, sizeof head);
  if (head.size > k_max_config || head.offset > k_max_config - head.size ||
      m.header.size != sizeof head + head.size)
    return reply("");
  char space[k_max_config] = {};
  const BlkConfig config = config_of(session_.ground.disk.geometry(), session_.writeback);
  std::memcpy(space, &config, sizeof config);
  std::string payload(reinterpret_cast<const char*>(&head), sizeof head);
  payload.append(space + head.offset, head.size);
  return reply(payload);
}

// The guest may set one byte: whether the write cache is on.
Result<> Device::set_config(Message& m) {
  ConfigHead head{};
  if (m.header.size < sizeof head) return fail(wrong_length());
  std::memcpy(&head, m.payload, sizeof head);
  if (m.header.size != sizeof head + uint64_t{head.size}) return fail(wrong_length());
  if (head.offset != k_wce_at || head.size != 1)
    return fail(Code::invalid, fmt::format("{} bytes of configuration at {} that cannot be set",
                                           head.size, head.offset));
  session_.writeback = m.payload[sizeof head] != 0;
  return {};
}

Result<> Device::set_backend_req_fd(Message& m) {
  Fd fd = m.take_fd();
  if (!fd) return fail(Code::invalid, "not exactly one descriptor");
  backend_channel_ = std::move(fd);
  return {};
}

}  // namespace pv::vhost
