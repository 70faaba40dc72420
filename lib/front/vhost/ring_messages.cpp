// SPDX-License-Identifier: MIT
// Messages about one queue. (Part of Device.)
#include <fcntl.h>

#include "front/vhost/device.hpp"

namespace pv::vhost {
namespace {

Result<VringState> state_of(const Message& m) {
  VringState state{};
  if (!m.get(state)) return fail(Code::invalid, "a message of a wrong length");
  return state;
}

}  // namespace

Result<> Device::set_vring_num(Message& m) {
  TRY_ASSIGN(const VringState state, state_of(m));
  TRY_ASSIGN(Queue * queue, this->queue(state.index));
  return queue->set_size(state.num);
}

Result<> Device::set_vring_base(Message& m) {
  TRY_ASSIGN(const VringState state, state_of(m));
  TRY_ASSIGN(Queue * queue, this->queue(state.index));
  return queue->set_next(state.num);
}

Result<> Device::set_vring_addr(Message& m) {
  VringAddr addresses{};
  if (!m.get(addresses)) return fail(Code::invalid, "a message of a wrong length");
  TRY_ASSIGN(Queue * queue, this->queue(addresses.index));
  return queue->set_addresses(addresses);
}

// Stops the queue, too; answered when the guest has all its answers.
Result<> Device::get_vring_base(Message& m) {
  TRY_ASSIGN(const VringState state, state_of(m));
  TRY_ASSIGN(Queue * queue, this->queue(state.index));
  wait();
  queue->stop([this, queue, index = state.index] {
    const VringState answer{index, queue->next_index()};
    if (!reply({reinterpret_cast<const char*>(&answer), sizeof answer})) hang_up();
    go_on();
  });
  return {};
}

// Which queue is meant, and the descriptor, unless it is said that none comes.
Result<Queue*> Device::queue_of_fd(Message& m, Fd& fd) {
  uint64_t value = 0;
  if (!m.get(value)) return fail(Code::invalid, "a message of a wrong length");
  fd = m.take_fd();
  if (((value & k_no_fd) == 0) != static_cast<bool>(fd))
    return fail(Code::invalid, "not as many descriptors as it says");
  // The client has it too, and could see to it that a read or a write of ours never ends.
  if (fd) fcntl(fd.get(), F_SETFL, fcntl(fd.get(), F_GETFL) | O_NONBLOCK);
  return queue(value & k_queue_mask);
}

Result<> Device::set_vring_kick(Message& m) {
  Fd fd;
  TRY_ASSIGN(Queue * queue, queue_of_fd(m, fd));
  queue->set_inflight(inflight_);
  TRY(queue->set_kick(std::move(fd)));
  if (!session_.has(k_f_protocol)) queue->enable(true);
  return {};
}

Result<> Device::set_vring_call(Message& m) {
  Fd fd;
  TRY_ASSIGN(Queue * queue, queue_of_fd(m, fd));
  queue->set_call(std::move(fd));
  return {};
}

Result<> Device::set_vring_err(Message& m) {
  Fd fd;
  TRY_ASSIGN(Queue * queue, queue_of_fd(m, fd));
  queue->set_error(std::move(fd));
  return {};
}

Result<> Device::set_vring_enable(Message& m) {
  TRY_ASSIGN(const VringState state, state_of(m));
  if (state.num > 1) return fail(Code::invalid, "a queue that is neither on nor off");
  TRY_ASSIGN(Queue * queue, this->queue(state.index));
  queue->enable(state.num == 1);
  // QEMU throws away what it is told while its VM is stopped, or before the guest has a driver.
  if (state.num == 1 && session_.news) {
    config_changed();
    session_.news = false;
  }
  return {};
}

void Device::stop_all(std::function<void()> idle) {
  const auto left = std::make_shared<size_t>(1);
  const auto one_less = [left, idle = std::move(idle)] {
    if (--*left == 0) idle();
  };
  for (const auto& queue : queues_) {
    if (!queue) continue;
    ++*left;
    queue->stop(one_less);
  }
  one_less();
}

}  // namespace pv::vhost
