// SPDX-License-Identifier: MIT
#include "driver.hpp"

#include <cerrno>
#include <cstring>
#include <sys/socket.h>

#include <fmt/format.h>

namespace pv::test::vhost {

Result<std::unique_ptr<Driver>> Driver::make(const Options& options) {
  std::unique_ptr<Driver> driver(new Driver(options));
  TRY_ASSIGN(driver->memory_, Memory::make(options.regions));
  for (unsigned index = 0; index < options.queues; ++index) {
    TRY_ASSIGN(Queue queue, Queue::make(driver->memory_, options.queue_size));
    driver->queues_.push_back(std::move(queue));
  }
  return driver;
}

Result<> Driver::connect(const std::string& path) {
  disconnect();
  TRY_ASSIGN(channel_, Channel::connect(path, deadline()));
  return {};
}

void Driver::disconnect() {
  backend_ = Channel();
  // A server that does not notice within the limit is not waited for any longer.
  if (channel_ && shutdown(channel_.fd(), SHUT_WR) == 0)
    static_cast<void>(channel_.wait_closed(deadline()));
  channel_ = Channel();
  features_ = protocol_ = 0;
}

Result<> Driver::start() {
  TRY(negotiate());
  TRY(share_memory());
  for (unsigned index = 0; index < queues(); ++index)
    TRY(start_queue(index, queue(index).used_idx()));
  return settle();
}

Result<> Driver::attach(const std::string& path) {
  TRY(connect(path));
  return start();
}

// --- messages ---------------------------------------------------------------------------------

Result<> Driver::tell(uint32_t request, std::string payload, std::vector<int> fds) {
  if (has_protocol(k_p_reply_ack)) {
    Message message{request, std::move(payload), std::move(fds), k_version | k_need_reply};
    TRY(channel_.send(message, deadline()));
    TRY_ASSIGN(const Received reply, channel_.receive(deadline()));
    uint64_t value = 0;
    if (reply.request != request || reply.payload.size() != sizeof value ||
        reply.flags != (k_version | k_reply))
      return fail(Code::bug,
                  fmt::format("message {} is acknowledged by {}, flags {:#x}, {} bytes", request,
                              reply.request, reply.flags, reply.payload.size()));
    std::memcpy(&value, reply.payload.data(), sizeof value);
    if (value != 0)
      return fail(Code::invalid, fmt::format("message {} is refused with {}", request, value));
    return {};
  }
  return channel_.send({request, std::move(payload), std::move(fds)}, deadline());
}

Result<Received> Driver::ask(uint32_t request, std::string payload, std::vector<int> fds) {
  TRY(channel_.send({request, std::move(payload), std::move(fds)}, deadline()));
  TRY_ASSIGN(Received reply, channel_.receive(deadline()));
  if (reply.request != request || (reply.flags & k_reply) == 0 ||
      (reply.flags & k_version_mask) != k_version)
    return fail(Code::bug, fmt::format("message {} is answered by {} with flags {:#x}", request,
                                       reply.request, reply.flags));
  return reply;
}

Result<uint64_t> Driver::ask_u64(uint32_t request) {
  TRY_ASSIGN(const Received reply, ask(request));
  uint64_t value = 0;
  if (reply.payload.size() != sizeof value)
    return fail(Code::bug, fmt::format("message {} is answered by {} bytes, not 8", request,
                                       reply.payload.size()));
  std::memcpy(&value, reply.payload.data(), sizeof value);
  return value;
}

Result<> Driver::settle() {
  TRY_ASSIGN([[maybe_unused]] const uint64_t features, ask_u64(request::get_features));
  return {};
}

// --- what both sides can ----------------------------------------------------------------------

Result<> Driver::negotiate() {
  TRY_ASSIGN(offered_, ask_u64(request::get_features));
  if ((offered_ & options_.features & k_f_protocol_features) != 0) {
    TRY_ASSIGN(protocol_offered_, ask_u64(request::get_protocol_features));
    const uint64_t chosen = protocol_offered_ & options_.protocol_features;
    TRY(tell(request::set_protocol_features, bytes_of(chosen)));
    protocol_ = chosen;
  }
  if (has_protocol(k_p_mq)) {
    TRY_ASSIGN(queue_limit_, ask_u64(request::get_queue_num));
    if (queue_limit_ < queues())
      return fail(Code::unsupported,
                  fmt::format("the server has {} queues, not {}", queue_limit_, queues()));
  }
  TRY(tell(request::set_owner));
  TRY(set_features(offered_ & options_.features));
  return has_protocol(k_p_backend_req) ? open_backend_channel() : Result<>();
}

Result<> Driver::set_features(uint64_t features) {
  TRY(tell(request::set_features, bytes_of(features)));
  features_ = features;
  for (Queue& queue : queues_) queue.use_event_idx(has(k_f_event_idx));
  return {};
}

Result<> Driver::open_backend_channel() {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
    return fail_errno("socketpair", errno);
  backend_ = Channel(Fd(pair[0]));
  const Fd theirs(pair[1]);
  return tell(request::set_backend_req_fd, {}, {theirs.get()});
}

Result<> Driver::answer_backend(const Received& request, uint64_t value) {
  Message reply{request.request, bytes_of(value)};
  reply.flags = k_version | k_reply;
  return backend_.send(reply, deadline());
}

// --- memory -----------------------------------------------------------------------------------

Result<> Driver::share_memory() {
  if (!options_.memory_slots) return set_mem_table();
  for (size_t number = 0; number < memory_.count(); ++number) TRY(add_region(number));
  return {};
}

Result<> Driver::set_mem_table() {
  std::string payload = bytes_of(VringState{static_cast<uint32_t>(memory_.count()), 0});
  std::vector<int> fds;
  for (size_t number = 0; number < memory_.count(); ++number) {
    payload += bytes_of(memory_.region(number));
    fds.push_back(memory_.fd(number));
  }
  return tell(request::set_mem_table, std::move(payload), std::move(fds));
}

Result<> Driver::add_region(size_t number) {
  const SingleRegion added{0, memory_.region(number)};
  return tell(request::add_mem_reg, bytes_of(added), {memory_.fd(number)});
}

Result<> Driver::remove_region(const MemoryRegion& region) {
  return tell(request::rem_mem_reg, bytes_of(SingleRegion{0, region}));
}

// --- queues -----------------------------------------------------------------------------------

Result<> Driver::set_vring_num(unsigned index, uint32_t num) {
  return tell(request::set_vring_num, bytes_of(VringState{index, num}));
}

Result<> Driver::set_vring_base(unsigned index, uint32_t base) {
  return tell(request::set_vring_base, bytes_of(VringState{index, base}));
}

Result<> Driver::set_vring_addr(unsigned index, uint32_t flags) {
  const Queue& of = queue(index);
  const VringAddr addr{index,
                       flags,
                       memory_.user(of.table_at()),
                       memory_.user(of.used_at()),
                       memory_.user(of.avail_at()),
                       of.used_at()};
  return tell(request::set_vring_addr, bytes_of(addr));
}

Result<> Driver::set_vring_kick(unsigned index) {
  return tell(request::set_vring_kick, bytes_of(uint64_t{index}), {queue(index).kick_fd()});
}

Result<> Driver::set_vring_call(unsigned index) {
  return tell(request::set_vring_call, bytes_of(uint64_t{index}), {queue(index).call_fd()});
}

Result<> Driver::set_vring_err(unsigned index) {
  return tell(request::set_vring_err, bytes_of(uint64_t{index}), {queue(index).err_fd()});
}

Result<> Driver::set_vring_enable(unsigned index, bool on) {
  return tell(request::set_vring_enable, bytes_of(VringState{index, on ? 1u : 0u}));
}

Result<> Driver::start_queue(unsigned index, uint16_t base) {
  TRY(set_vring_num(index, queue(index).size()));
  TRY(set_vring_base(index, base));
  TRY(set_vring_addr(index));
  TRY(set_vring_err(index));
  // Before the kick, with which a server may begin to answer what is in the ring.
  TRY(set_vring_call(index));
  TRY(set_vring_kick(index));
  if (has(k_f_protocol_features)) TRY(set_vring_enable(index, true));
  // A ring begins with a kick, and nobody knows what another server wanted to hear of.
  queue(index).kick_always();
  return {};
}

Result<uint16_t> Driver::stop_queue(unsigned index) {
  TRY_ASSIGN(const Received reply, ask(request::get_vring_base, bytes_of(VringState{index, 0})));
  VringState state;
  if (reply.payload.size() != sizeof state)
    return fail(Code::bug,
                fmt::format("GET_VRING_BASE is answered by {} bytes", reply.payload.size()));
  std::memcpy(&state, reply.payload.data(), sizeof state);
  if (state.index != index || state.num > UINT16_MAX)
    return fail(Code::bug, fmt::format("GET_VRING_BASE of queue {} is answered by {} of queue {}",
                                       index, state.num, state.index));
  return static_cast<uint16_t>(state.num);
}

// --- configuration ----------------------------------------------------------------------------

Result<std::string> Driver::get_config(uint32_t offset, uint32_t size) {
  const ConfigHeader head{offset, size, 0};
  TRY_ASSIGN(const Received reply,
             ask(request::get_config, bytes_of(head) + std::string(size, '\0')));
  if (reply.payload.empty()) return fail(Code::invalid, "GET_CONFIG is refused");
  if (reply.payload.size() != sizeof head + size)
    return fail(Code::bug, fmt::format("GET_CONFIG of {} bytes is answered by {}", size,
                                       reply.payload.size()));
  return reply.payload.substr(sizeof head);
}

Result<> Driver::set_config(uint32_t offset, std::string_view bytes, uint32_t flags) {
  const ConfigHeader head{offset, static_cast<uint32_t>(bytes.size()), flags};
  return tell(request::set_config, bytes_of(head) + std::string(bytes));
}

}  // namespace pv::test::vhost
