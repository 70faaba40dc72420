// SPDX-License-Identifier: MIT
// Messages about memory: the guest's, the log of dirty pages, the area for requests in flight.
// (Part of Device.)
#include "front/vhost/device.hpp"

namespace pv::vhost {

Result<> Device::set_mem_table(Message& m) {
  MemTable table{};
  if (m.header.size < sizeof table) return fail(Code::invalid, "a message of a wrong length");
  std::memcpy(&table, m.payload, sizeof table);
  if (table.count > k_max_fds || m.header.size != sizeof table + table.count * sizeof(MemRegion))
    return fail(Code::invalid, "a message of a wrong length");
  if (m.fds.size() != table.count) return fail(Code::invalid, "not as many descriptors as regions");
  auto memory = std::make_shared<const Memory>();
  for (uint32_t i = 0; i < table.count; ++i) {
    MemRegion about{};
    std::memcpy(&about, m.payload + sizeof table + i * sizeof about, sizeof about);
    TRY_ASSIGN(auto region, Region::map(about, m.fds[i]));
    memory = memory->with(std::move(region));
    if (!memory) return fail(Code::invalid, "regions that overlap");
  }
  return use_memory(std::move(memory));
}

Result<> Device::use_memory(std::shared_ptr<const Memory> memory) {
  const auto before = std::exchange(session_.memory, std::move(memory));
  for (const auto& queue : queues_) {
    if (!queue) continue;
    auto found = queue->find_again();
    if (found) continue;
    // A queue that runs has lost its rings: with this client there is no going on.
    session_.memory = before;
    complain(found.error().message);
    hang_up();
    return found;
  }
  return {};
}

Result<> Device::add_mem_reg(Message& m) {
  MemSlot slot{};
  if (!m.get(slot)) return fail(Code::invalid, "a message of a wrong length");
  TRY_ASSIGN(auto region, Region::map(slot.region, m.take_fd()));
  auto memory = session_.memory->with(std::move(region));
  if (!memory)
    return fail(Code::invalid, "a region that overlaps with another, or is one too many");
  return use_memory(std::move(memory));
}

// A descriptor that comes along is of no use.
Result<> Device::rem_mem_reg(Message& m) {
  MemSlot slot{};
  if (!m.get(slot)) return fail(Code::invalid, "a message of a wrong length");
  auto memory = session_.memory->without(slot.region);
  if (!memory) return fail(Code::invalid, "a region that is not there");
  return use_memory(std::move(memory));
}

Result<> Device::set_log_base(Message& m) {
  LogArea area{};
  if (!m.get(area)) return fail(Code::invalid, "a message of a wrong length");
  TRY_ASSIGN(session_.log, DirtyLog::map(area, m.take_fd()));
  return reply_u64(0);
}

// A descriptor to be told at; the log itself says everything.
Result<> Device::set_log_fd(Message&) {
  return {};
}

namespace {

// Front ends send the structure with the padding behind it, or without.
Result<InflightArea> inflight_area(const Message& m) {
  InflightArea area{};
  if (m.header.size != sizeof area && m.header.size != k_inflight_area_size)
    return fail(Code::invalid, "a message of a wrong length");
  std::memcpy(&area, m.payload, k_inflight_area_size);
  if (area.queues == 0 || area.queues > k_max_queues || area.queue_size == 0 ||
      area.queue_size > k_max_ring)
    return fail(Code::invalid, "an area for no queues, or for too many");
  return area;
}

}  // namespace

Result<> Device::get_inflight_fd(Message& m) {
  TRY_ASSIGN(InflightArea area, inflight_area(m));
  TRY_ASSIGN(Fd fd, InflightMap::make(area.queues, area.queue_size));
  area.size = InflightMap::bytes(area.queues, area.queue_size);
  area.offset = 0;
  return reply({reinterpret_cast<const char*>(&area), m.header.size}, fd.get());
}

Result<> Device::set_inflight_fd(Message& m) {
  TRY_ASSIGN(const InflightArea area, inflight_area(m));
  TRY_ASSIGN(inflight_, InflightMap::map(area, m.take_fd()));
  for (const auto& queue : queues_)
    if (queue) queue->set_inflight(inflight_);
  return {};
}

}  // namespace pv::vhost
