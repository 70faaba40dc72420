// SPDX-License-Identifier: MIT
#include "blk.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace pv::test::vhost {
namespace {

constexpr char k_untouched = '\xdd';  // data that the device has not written

std::string ranges_bytes(const std::vector<BlkRange>& ranges) {
  std::string bytes;
  for (const BlkRange& range : ranges) bytes += bytes_of(range);
  return bytes;
}

}  // namespace

int errno_of(uint8_t status) {
  if (status == k_ok) return 0;
  if (status == k_ioerr) return EIO;
  return status == k_unsupp ? EOPNOTSUPP : EINVAL;
}

Result<BlkConfig> Blk::config() {
  TRY_ASSIGN(const std::string bytes, driver_.get_config(0, sizeof(BlkConfig)));
  BlkConfig config;
  std::memcpy(&config, bytes.data(), sizeof config);
  return config;
}

Result<BlkReply> Blk::read(uint64_t sector, uint32_t bytes) {
  return run({blk_type::in, sector, {}, {bytes}});
}

Result<BlkReply> Blk::write(uint64_t sector, std::string_view bytes) {
  return run({blk_type::out, sector, std::string(bytes)});
}

Result<BlkReply> Blk::flush() {
  return run({blk_type::flush});
}

Result<BlkReply> Blk::get_id(uint32_t bytes) {
  return run({blk_type::get_id, 0, {}, {bytes}});
}

Result<BlkReply> Blk::discard(const std::vector<BlkRange>& ranges) {
  return run({blk_type::discard, 0, ranges_bytes(ranges)});
}

Result<BlkReply> Blk::write_zeroes(const std::vector<BlkRange>& ranges) {
  return run({blk_type::write_zeroes, 0, ranges_bytes(ranges)});
}

Result<BlkReply> Blk::run(const BlkRequest& request) {
  TRY_ASSIGN(const uint16_t head, submit(request));
  return finish(head);
}

Result<uint64_t> Blk::place(Pending& pending, std::string_view bytes, bool write, int region) {
  TRY_ASSIGN(const uint64_t at, driver_.memory().allocate(bytes.size(), 16, region));
  driver_.memory().write(at, bytes);
  pending.chain.push_back({at, static_cast<uint32_t>(bytes.size()), write});
  return at;
}

Result<uint16_t> Blk::prepare(const BlkRequest& request) {
  Pending pending;
  const std::string header = bytes_of(BlkHeader{request.type, 0, request.sector});
  if (request.header_bytes > 0)
    TRY(place(pending, std::string_view(header).substr(0, request.header_bytes), false, -1));
  std::string_view left = request.out;
  for (const uint32_t size : request.split) {
    TRY(place(pending, left.substr(0, size), false, request.region));
    left.remove_prefix(std::min<size_t>(size, left.size()));
  }
  if (!left.empty()) TRY(place(pending, left, false, request.region));
  pending.first_in = pending.chain.size();
  for (const uint32_t size : request.in)
    TRY(place(pending, std::string(size, k_untouched), true, request.region));
  if (request.status_bytes > 0) {
    const std::string status(request.status_bytes, static_cast<char>(k_not_written));
    TRY_ASSIGN(pending.status_at, place(pending, status, true, -1));
    pending.status_at += request.status_bytes - 1;
  }
  TRY_ASSIGN(const uint16_t head, queue().add(pending.chain, request.indirect));
  pending_[head] = std::move(pending);
  return head;
}

Result<uint16_t> Blk::submit(const BlkRequest& request) {
  TRY_ASSIGN(const uint16_t head, prepare(request));
  queue().publish(head);
  queue().kick();
  return head;
}

Result<std::pair<uint16_t, BlkReply>> Blk::next() {
  TRY_ASSIGN(const UsedElement used, queue().wait(driver_.deadline(), how_));
  const auto head = static_cast<uint16_t>(used.id);
  BlkReply reply;
  reply.used_length = used.len;
  const auto found = pending_.find(head);
  if (found == pending_.end()) return std::pair(head, reply);  // a chain of the test's own
  const Pending& pending = found->second;
  const Memory& memory = driver_.memory();
  if (pending.status_at != 0)
    reply.status = static_cast<uint8_t>(memory.read(pending.status_at, 1)[0]);
  const size_t end = pending.chain.size() - (pending.status_at != 0 ? 1 : 0);
  for (size_t at = pending.first_in; at < end; ++at)
    reply.data += memory.read(pending.chain[at].addr, pending.chain[at].len);
  free(pending);
  pending_.erase(found);
  return std::pair(head, std::move(reply));
}

Result<BlkReply> Blk::finish(uint16_t head) {
  while (answered_.count(head) == 0) {
    TRY_ASSIGN(auto answer, next());
    answered_[answer.first] = std::move(answer.second);
  }
  BlkReply reply = std::move(answered_[head]);
  answered_.erase(head);
  return reply;
}

std::vector<Segment> Blk::parts(uint16_t head) const {
  const auto found = pending_.find(head);
  return found == pending_.end() ? std::vector<Segment>() : found->second.chain;
}

void Blk::free(const Pending& pending) {
  for (const Segment& segment : pending.chain) driver_.memory().release(segment.addr);
}

}  // namespace pv::test::vhost
