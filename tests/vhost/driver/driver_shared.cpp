// SPDX-License-Identifier: MIT
// The memory that a front end shares with its server beside the guest's: what is in flight, and the
// log of written pages.
#include <algorithm>
#include <cstring>
#include <sys/eventfd.h>

#include <fmt/format.h>

#include "driver.hpp"

namespace pv::test::vhost {
namespace {

uint64_t inflight_queue_bytes(uint16_t queue_size) {
  // Each queue's part begins at a multiple of 64 bytes, as libvhost-user lays them out.
  return (sizeof(InflightQueue) + uint64_t{queue_size} * sizeof(InflightState) + 63) / 64 * 64;
}

}  // namespace

Result<> Driver::get_inflight() {
  const Inflight wanted{0, 0, static_cast<uint16_t>(queues()), options_.queue_size, 0};
  TRY_ASSIGN(Received reply, ask(request::get_inflight_fd, bytes_of(wanted)));
  Inflight area{};
  if (reply.payload.size() < k_inflight_fields || reply.payload.size() > sizeof area ||
      reply.fds.size() != 1)
    return fail(Code::bug, fmt::format("GET_INFLIGHT_FD is answered by {} bytes, {} descriptors",
                                       reply.payload.size(), reply.fds.size()));
  std::memcpy(&area, reply.payload.data(), reply.payload.size());
  const uint64_t needed = queues() * inflight_queue_bytes(options_.queue_size);
  if (area.mmap_size < needed)
    return fail(Code::bug,
                fmt::format("the in-flight region has {} bytes, not {}", area.mmap_size, needed));
  TRY_ASSIGN(inflight_bytes_, Mapping::make(reply.fds[0].get(), area.mmap_size, area.mmap_offset));
  inflight_fd_ = std::move(reply.fds[0]);
  inflight_area_ = area;
  return {};
}

Result<> Driver::set_inflight() {
  Inflight area = inflight_area_;
  area.queues = static_cast<uint16_t>(queues());
  area.queue_size = options_.queue_size;
  return tell(request::set_inflight_fd, bytes_of(area), {inflight_fd_.get()});
}

InflightQueue* Driver::inflight(unsigned index) {
  const uint64_t at = index * inflight_queue_bytes(options_.queue_size);
  if (index >= queues() || at + inflight_queue_bytes(options_.queue_size) > inflight_bytes_.size())
    return nullptr;
  return reinterpret_cast<InflightQueue*>(inflight_bytes_.data() + at);
}

InflightState* Driver::inflight_state(unsigned index, uint16_t descriptor) {
  InflightQueue* of = inflight(index);
  return of == nullptr ? nullptr : reinterpret_cast<InflightState*>(of + 1) + descriptor;
}

Result<> Driver::set_log() {
  uint64_t end = 0;
  for (size_t number = 0; number < memory_.count(); ++number)
    end = std::max(end, memory_.region(number).guest + memory_.region(number).size);
  const uint64_t bytes = (end / k_log_page + 8) / 8;
  TRY_ASSIGN(const Fd fd, make_memfd("pv-log", bytes));
  TRY_ASSIGN(log_, Mapping::make(fd.get(), bytes, 0));
  // This one has an answer of its own, whatever the flags.
  TRY_ASSIGN([[maybe_unused]] const Received reply,
             ask(request::set_log_base, bytes_of(LogArea{bytes, 0}), {fd.get()}));
  return {};
}

Result<> Driver::set_log_fd(int eventfd) {
  return tell(request::set_log_fd, {}, {eventfd});
}

bool Driver::logged(uint64_t guest) const {
  const uint64_t page = guest / k_log_page;
  if (page / 8 >= log_.size()) return false;
  const char* byte = log_.data() + page / 8;
  return (__atomic_load_n(byte, __ATOMIC_ACQUIRE) >> (page % 8) & 1) != 0;
}

void Driver::clear_log() {
  std::memset(log_.data(), 0, log_.size());
}

}  // namespace pv::test::vhost
