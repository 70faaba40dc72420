// SPDX-License-Identifier: MIT
#include "front/vhost/greeter.hpp"

#include <algorithm>

#include "base/socket.hpp"
#include "front/vhost/config.hpp"

namespace pv::vhost {
namespace {

std::string_view bytes_of(const uint64_t& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

}  // namespace

Greeter::Greeter(Loop& loop, Fd listener, std::function<uint64_t()> features,
                 std::function<void(Handover)> pass)
    : loop_(loop),
      listener_(std::move(listener)),
      features_(std::move(features)),
      pass_(std::move(pass)) {}

Greeter::~Greeter() {
  loop_.unwatch(listener_.get());
  for (const auto& talk : talks_) loop_.unwatch(talk->channel->fd());
}

Result<> Greeter::start() {
  return loop_.watch(listener_.get(), EPOLLIN, [this](uint32_t) { accept_all(); });
}

void Greeter::accept_all() {
  while (Fd socket = accept_unix(listener_.get())) {
    // Who says nothing makes room for who comes after.
    if (talks_.size() == k_max_talks) end(talks_.front().get());
    auto& talk = *talks_.emplace_back(std::make_unique<Talk>());
    talk.channel = std::make_unique<Channel>(std::move(socket));
    const auto watched =
        loop_.watch(talk.channel->fd(), EPOLLIN, [this, at = &talk](uint32_t) { ready(at); });
    if (!watched) end(&talk);
  }
}

void Greeter::ready(Talk* talk) {
  while (true) {
    auto message = talk->channel->receive();
    if (!message) return end(talk);
    if (*message == nullptr) return;
    if (answer(*talk, **message)) continue;
    if (!note(*talk, **message)) return hand_over(talk, **message);
  }
}

// Questions that have the same answer for the life of a disk. False for everything else.
bool Greeter::answer(Talk& talk, Message& message) {
  uint64_t value = 0;
  switch (message.header.request) {
    case k_get_features:
      value = features_();
      break;
    case k_get_protocol_features:
      value = k_protocol_features;
      break;
    case k_get_queue_num:
      value = k_max_queues;
      break;
    case k_get_max_mem_slots:
      value = k_max_slots;
      break;
    default:
      return false;
  }
  const bool asked_early = message.header.request == k_get_queue_num
                               ? (talk.protocol & k_proto_mq) == 0
                               : message.header.request == k_get_max_mem_slots &&
                                     (talk.protocol & k_proto_mem_slots) == 0;
  if (asked_early || value == 0) return false;  // the server says what it thinks of that
  static_cast<void>(talk.channel->reply(message.header.request, bytes_of(value)));
  return true;
}

// What changes nothing yet but what the server has to know of. False for what is not as it should
// be, which is the server's to refuse, and for everything else.
bool Greeter::note(Talk& talk, Message& message) {
  if (talk.said.size() + 2 > Handover::k_max_said) return false;
  uint64_t value = 0;
  switch (message.header.request) {
    case k_set_owner:
      break;
    case k_set_protocol_features:
      if (!message.get(value) || (value & ~k_protocol_features) != 0) return false;
      talk.protocol = value;
      break;
    case k_set_backend_req_fd:
      if ((talk.protocol & k_proto_backend_req) == 0 || message.fds.size() != 1) return false;
      break;
    case k_set_vring_call:
      if (!message.get(value) || (value & k_queue_mask) >= k_max_queues ||
          message.fds.size() != ((value & k_no_fd) == 0 ? 1 : 0))
        return false;
      break;
    default:
      return false;
  }
  const Header header = message.header;
  talk.said.push_back(Said::of(message));
  talk.said.back().header.flags &= ~k_need_reply;  // it has its answer
  if ((header.flags & k_need_reply) != 0 && (talk.protocol & k_proto_reply_ack) != 0)
    static_cast<void>(talk.channel->reply(header.request, bytes_of(0)));
  return true;
}

void Greeter::hand_over(Talk* talk, Message& message) {
  Handover handover;
  handover.said = std::move(talk->said);
  handover.said.push_back(Said::of(message));
  loop_.unwatch(talk->channel->fd());
  handover.socket = talk->channel->release();
  const auto is_it = [&](const auto& one) { return one.get() == talk; };
  talks_.erase(std::find_if(talks_.begin(), talks_.end(), is_it));
  pass_(std::move(handover));
}

void Greeter::end(Talk* talk) {
  loop_.unwatch(talk->channel->fd());
  const auto is_it = [&](const auto& one) { return one.get() == talk; };
  talks_.erase(std::find_if(talks_.begin(), talks_.end(), is_it));
}

}  // namespace pv::vhost
