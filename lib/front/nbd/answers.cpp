// SPDX-License-Identifier: MIT
// From the completion of a request to its answer. (Part of Connection; what faults make of an
// answer is in faults.cpp.)
#include <algorithm>
#include <cerrno>
#include <limits>
#include <unistd.h>

#include "blk/wire.hpp"
#include "front/nbd/connection.hpp"
#include "front/nbd/protocol.hpp"

namespace pv::nbd {
namespace {

constexpr size_t k_small = 64;  // room of a reply without data
constexpr size_t k_max_status_extents = 2048;

}  // namespace

void Connection::finished(Job& job, int error) {
  if (job.known) shared_.counters.completed(job.request.op, job.request.length, error);
  if (socket_ && !cut_) {
    if (job.wire.kind == blk::WireFault::none && job.wire.good == 0)
      queue(answer(job, error));
    else
      answer_faulty(job, error);
  }
  release(job);
  if (!in_batch_) turn_later();
}

Reply Connection::answer(Job& job, int error) {
  const blk::Op op = job.request.op;
  if (op == blk::Op::read && settle_loan(job, error)) {
    Reply reply;
    reply.head_size = handshake_.structured() ? k_read_header : k_simple_reply_size;
    reply.body_size = job.request.length;
    reply.pipe = std::exchange(job.pipe, nullptr);
    return reply;
  }
  if (op == blk::Op::read && error == 0 && job.buffer != nullptr) return read_answer(job);
  if (op == blk::Op::map && error == 0) return map_answer(job);
  return status_answer(job, wire_error(op, error));
}

// Whether the answer is in the pipe; a pipe that was not used is given back.
bool Connection::settle_loan(Job& job, int error) {
  if (job.pipe == nullptr) return false;
  if (error == 0 && job.loan.kind == blk::Loan::piped) return true;
  Pipe* pipe = std::exchange(job.pipe, nullptr);
  const size_t header = handshake_.structured() ? k_read_header : k_simple_reply_size;
  if (job.loan.kind == blk::Loan::memory) shared_.offer_pipes = false;  // it has no pages to lend
  char waste[k_read_header];
  const bool clean = job.loan.kind == blk::Loan::none || job.loan.kind == blk::Loan::memory;
  if (clean && ::read(pipe->read_end.get(), waste, header) == static_cast<ssize_t>(header))
    shared_.pipes.give(pipe);
  else
    shared_.pipes.give_dirty(pipe);
  return false;
}

// Of data that lies in the buffer, or in memory that is lent.
Reply Connection::read_answer(Job& job) {
  // The header goes right in front of the data, so an answer that was read is one piece.
  char* end = job.buffer + k_read_header;
  Reply reply;
  reply.head_size = read_header(job, end);
  reply.head = end - reply.head_size;
  if (job.loan.kind == blk::Loan::memory) {
    reply.body = job.loan.at;
    reply.body_size = job.request.length;
    lent_.push_back({job.request.offset, job.request.offset + job.request.length});
  } else {
    reply.head_size += job.request.length;
  }
  reply.buffer_size = job.buffer_size;
  reply.buffer = std::exchange(job.buffer, nullptr);
  return reply;
}

Reply Connection::map_answer(const Job& job) {
  // An extent has 32 bits on the wire; one that had to be cut is the last of its answer.
  constexpr uint64_t k_max_extent = std::numeric_limits<uint32_t>::max() & ~uint64_t{0xfff};
  size_t count = std::min(job.extents.size(), k_max_status_extents);
  for (size_t i = 0; i < count; ++i)
    if (job.extents[i].length > k_max_extent) count = i + 1;
  const size_t payload = 4 + 8 * count;
  char* start = small_buffer(k_chunk_header_size + payload);
  if (start == nullptr) return {};
  char* p = chunk_header(start, k_reply_done, k_reply_block_status, job.cookie,
                         static_cast<uint32_t>(payload));
  p = put32(p, k_base_allocation_id);
  for (size_t i = 0; i < count; ++i) {
    const blk::Extent& extent = job.extents[i];
    p = put32(p, static_cast<uint32_t>(std::min(extent.length, k_max_extent)));
    p = put32(p, extent.flags);
  }
  const size_t size = k_chunk_header_size + payload;
  return {start, size, nullptr, 0, start, size, nullptr};
}

// The number on the wire for an errno of ours; the same table that the journal records.
uint32_t Connection::wire_error(blk::Op op, int error) {
  switch (blk::delivered(blk::Front::nbd, op, error)) {
    case 0:
      return 0;
    case EPERM:
      return k_eperm;
    case ENOMEM:
      return k_enomem;
    case EINVAL:
      return k_einval;
    case ENOSPC:
      return k_enospc;
    case EOVERFLOW:
      return k_eoverflow;
    case ENOTSUP:
      return k_enotsup;
    case ESHUTDOWN:
      return k_eshutdown;
    default:
      return k_eio;
  }
}

// `code` as it stands on the wire.
Reply Connection::status_answer(const Job& job, uint32_t code) {
  char* start = small_buffer(k_small);
  if (start == nullptr) return {};
  size_t size = k_simple_reply_size;
  if (handshake_.structured() &&
      (job.request.op == blk::Op::read || job.request.op == blk::Op::map)) {
    char* p = chunk_header(start, k_reply_done, k_reply_error, job.cookie, 6);
    put16(put32(p, code), 0);
    size = k_chunk_header_size + 6;
  } else {
    put64(put32(put32(start, k_simple_reply_magic), code), job.cookie);
  }
  return {start, size, nullptr, 0, start, k_small, nullptr};
}

}  // namespace pv::nbd
