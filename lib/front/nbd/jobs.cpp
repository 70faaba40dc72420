// SPDX-License-Identifier: MIT
// From one request on the wire to the disk, and from its completion to an answer. (The other half
// of Connection, the socket and its batches, is in connection.cpp.)
#include <limits>
#include <unistd.h>

#include "blk/wire.hpp"
#include "front/nbd/connection.hpp"
#include "front/nbd/protocol.hpp"

namespace pv::nbd {
namespace {

constexpr size_t k_small = 64;  // room of a reply without data
constexpr size_t k_read_header = k_chunk_header_size + 8;
constexpr size_t k_max_status_extents = 2048;

bool command_op(uint16_t command, blk::Op& op) {
  switch (command) {
    case k_cmd_read:
      op = blk::Op::read;
      return true;
    case k_cmd_write:
      op = blk::Op::write;
      return true;
    case k_cmd_flush:
      op = blk::Op::flush;
      return true;
    case k_cmd_trim:
      op = blk::Op::discard;
      return true;
    case k_cmd_cache:
      op = blk::Op::cache;
      return true;
    case k_cmd_write_zeroes:
      op = blk::Op::zero;
      return true;
    case k_cmd_block_status:
      op = blk::Op::map;
      return true;
    default:
      return false;
  }
}

uint16_t allowed_flags(blk::Op op) {
  switch (op) {
    case blk::Op::read:
      return k_cmd_flag_df | k_cmd_flag_fua;
    case blk::Op::zero:
      return k_cmd_flag_fua | k_cmd_flag_no_hole;
    case blk::Op::map:
      return k_cmd_flag_req_one | k_cmd_flag_fua;
    default:
      return k_cmd_flag_fua;
  }
}

// The number on the wire for an errno of ours; the same table that the journal records.
uint32_t wire_error(blk::Op op, int error) {
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

char* chunk_header(char* p, uint16_t flags, uint16_t type, uint64_t cookie, uint32_t length) {
  p = put32(p, k_structured_reply_magic);
  p = put16(p, flags);
  p = put16(p, type);
  p = put64(p, cookie);
  return put32(p, length);
}

}  // namespace

void Connection::begin(uint16_t command, uint16_t flags, uint64_t cookie, uint64_t offset,
                       uint32_t length) {
  if (command == k_cmd_disc) {
    closing_ = true;
    return;
  }
  Job* job = jobs_.take();
  constexpr uint32_t k_small_request = 32 << 10;  // for more than that a nap costs little
  ++batch_jobs_;
  batch_small_ = batch_small_ && length <= k_small_request;
  blk::Request& request = job->request;
  request = blk::Request{};
  job->connection = this;
  job->cookie = cookie;
  job->extents.clear();
  job->loan = blk::Loan{};
  request.offset = offset;
  request.length = length;
  request.front = blk::Front::nbd;
  request.connection = number_;
  request.host = handshake_.host();
  request.owner = job;
  request.done = [](blk::Request& done, int error) {
    auto& finished_job = *static_cast<Job*>(done.owner);
    finished_job.connection->finished(finished_job, error);
  };
  job->known = command_op(command, request.op);
  if (job->known) shared_.counters.started();
  const bool carries_data = command == k_cmd_write;
  int error = 0;
  if (!job->known) {
    shared_.counters.unsupported();
    error = EINVAL;
  } else if ((flags & ~allowed_flags(request.op)) != 0) {
    error = EINVAL;
  } else if (request.op != blk::Op::flush && length == 0) {
    error = EINVAL;  // "a length of 0 is unspecified behaviour": refuse it, as nbdkit does
  } else if ((request.op == blk::Op::read || carries_data) && length > k_max_request) {
    error = EINVAL;
  } else if (request.op == blk::Op::map && !handshake_.base_allocation()) {
    error = EINVAL;
  }
  if (request.op == blk::Op::flush) request.offset = request.length = 0;
  if ((flags & k_cmd_flag_fua) != 0 && request.op != blk::Op::read) request.flags |= blk::k_fua;
  if ((flags & k_cmd_flag_no_hole) != 0) request.flags |= blk::k_no_unmap;
  if ((flags & k_cmd_flag_req_one) != 0) request.flags |= blk::k_one;
  if (error == 0 && shared_.stopping) error = ESHUTDOWN;
  if (error == 0 && request.op == blk::Op::read) error = prepare_read(*job, length);
  if (request.op == blk::Op::map) request.extents = &job->extents;
  if (error != 0) {
    if (!carries_data || length == 0) return finished(*job, error);
    // Answered when its data has gone by: clients take no answer to what they are still sending.
    skip_ = length;
    refused_job_ = job;
    refused_error_ = error;
    return;
  }
  if (carries_data) return prepare_write(job, length);
  submit(job);
}

int Connection::prepare_read(Job& job, uint32_t length) {
  job.buffer_size = length + k_read_header;
  flight_bytes_ += job.buffer_size;
  job.buffer = shared_.buffers.take(job.buffer_size);
  if (job.buffer == nullptr) return ENOMEM;
  job.segment = {job.buffer + k_read_header, length};
  job.request.data = &job.segment;
  job.request.segments = 1;
  if (shared_.loans) offer_loan(job);
  return 0;
}

// A read is large enough when two more system calls cost less than two copies of it.
void Connection::offer_loan(Job& job) {
  constexpr size_t k_least = 16 << 10;
  const size_t length = job.request.length;
  job.request.loan = &job.loan;
  if (!shared_.offer_pipes || length < k_least || length + k_read_header > Pipes::k_room) return;
  job.pipe = shared_.pipes.take();
  if (job.pipe == nullptr) return;
  char* end = job.buffer + k_read_header;
  const size_t size = read_header(job, end);
  if (::write(job.pipe->write_end.get(), end - size, size) == static_cast<ssize_t>(size))
    job.loan.pipe = job.pipe->write_end.get();
  else
    shared_.pipes.give_dirty(std::exchange(job.pipe, nullptr));
}

// Submits a write whose data has come in whole, or waits for the rest of it.
void Connection::prepare_write(Job* job, uint32_t length) {
  constexpr size_t k_large = 64 << 10;
  blk::Request& request = job->request;
  large_writes_ = length >= k_large;
  request.data = &job->segment;
  request.segments = 1;
  const std::string_view have = input_.view().substr(0, length);
  if (have.size() == length) job->pinned = input_.pin();
  if (job->pinned != nullptr) {
    job->segment = {const_cast<char*>(have.data()), length};
    flight_bytes_ += length;
    input_.consume(length);
    return submit(job);
  }
  job->buffer_size = length;
  flight_bytes_ += job->buffer_size;
  job->buffer = shared_.buffers.take(length);
  if (job->buffer == nullptr) {
    skip_ = length;
    refused_job_ = job;
    refused_error_ = ENOMEM;
    return;
  }
  job->segment = {job->buffer, length};
  payload_have_ = have.size();
  std::memcpy(job->buffer, have.data(), have.size());
  input_.consume(have.size());
  if (payload_have_ == length) return submit(job);
  payload_job_ = job;
}

void Connection::submit(Job* job) {
  const blk::Request& request = job->request;
  const bool changes =
      request.op == blk::Op::write || request.op == blk::Op::zero || request.op == blk::Op::discard;
  const auto overlaps = [&](const Range& range) {
    return request.offset < range.end && range.begin < request.offset + request.length;
  };
  const bool greeted = handshake_.output().empty();
  if (changes && greeted && std::any_of(lent_.begin(), lent_.end(), overlaps)) send();
  shared_.disk.submit(job->request);
}

void Connection::finished(Job& job, int error) {
  const blk::Op op = job.request.op;
  if (job.known) shared_.counters.completed(op, job.request.length, error);
  if (socket_) {
    if (op == blk::Op::read)
      answer_read(job, error);
    else if (op == blk::Op::map && error == 0)
      answer_map(job);
    else
      answer_status(job, error);
  }
  release(job);
  if (!in_batch_) turn_later();
}

// Writes the header of a read's answer so that it ends at `end`; its size.
size_t Connection::read_header(const Job& job, char* end) const {
  const auto length = static_cast<uint32_t>(job.request.length);
  if (handshake_.structured()) {
    char* p = chunk_header(end - k_read_header, k_reply_done, k_reply_offset_data, job.cookie,
                           length + 8);
    put64(p, job.request.offset);
    return k_read_header;
  }
  put64(put32(put32(end - k_simple_reply_size, k_simple_reply_magic), 0), job.cookie);
  return k_simple_reply_size;
}

// Whether the answer went into a pipe; a pipe that was not used is given back.
bool Connection::settle_loan(Job& job, int error) {
  Pipe* pipe = std::exchange(job.pipe, nullptr);
  if (pipe == nullptr) return false;
  const size_t header = handshake_.structured() ? k_read_header : k_simple_reply_size;
  if (error == 0 && job.loan.kind == blk::Loan::piped) {
    Reply reply;
    reply.head_size = header;
    reply.body_size = job.request.length;
    reply.pipe = pipe;
    queue(reply);
    return true;
  }
  if (job.loan.kind == blk::Loan::memory) shared_.offer_pipes = false;  // it has no pages to lend
  char waste[k_read_header];
  const bool clean = job.loan.kind == blk::Loan::none || job.loan.kind == blk::Loan::memory;
  if (clean && ::read(pipe->read_end.get(), waste, header) == static_cast<ssize_t>(header))
    shared_.pipes.give(pipe);
  else
    shared_.pipes.give_dirty(pipe);
  return false;
}

void Connection::answer_read(Job& job, int error) {
  if (settle_loan(job, error)) return;
  if (error != 0 || job.buffer == nullptr) return answer_status(job, error);
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
  queue(reply);
}

void Connection::answer_map(Job& job) {
  // An extent has 32 bits on the wire; one that had to be cut is the last of its answer.
  constexpr uint64_t k_max_extent = std::numeric_limits<uint32_t>::max() & ~uint64_t{0xfff};
  size_t count = std::min(job.extents.size(), k_max_status_extents);
  for (size_t i = 0; i < count; ++i)
    if (job.extents[i].length > k_max_extent) count = i + 1;
  const size_t payload = 4 + 8 * count;
  char* start = small_reply(k_chunk_header_size + payload);
  if (start == nullptr) return;
  char* p = chunk_header(start, k_reply_done, k_reply_block_status, job.cookie,
                         static_cast<uint32_t>(payload));
  p = put32(p, k_base_allocation_id);
  for (size_t i = 0; i < count; ++i) {
    const blk::Extent& extent = job.extents[i];
    p = put32(p, static_cast<uint32_t>(std::min(extent.length, k_max_extent)));
    p = put32(p, extent.flags);
  }
  const size_t size = k_chunk_header_size + payload;
  queue({start, size, nullptr, 0, start, size, nullptr});
}

void Connection::answer_status(Job& job, int error) {
  char* start = small_reply(k_small);
  if (start == nullptr) return;
  const uint32_t code = wire_error(job.request.op, error);
  size_t size = k_simple_reply_size;
  if (handshake_.structured() &&
      (job.request.op == blk::Op::read || job.request.op == blk::Op::map)) {
    char* p = chunk_header(start, k_reply_done, k_reply_error, job.cookie, 6);
    put16(put32(p, code), 0);
    size = k_chunk_header_size + 6;
  } else {
    put64(put32(put32(start, k_simple_reply_magic), code), job.cookie);
  }
  queue({start, size, nullptr, 0, start, k_small, nullptr});
}

char* Connection::small_reply(size_t size) {
  char* buffer = shared_.buffers.take(size);
  if (buffer == nullptr) drop();
  return buffer;
}

void Connection::release(Job& job) {
  flight_bytes_ -= job.pinned != nullptr ? job.request.length : job.buffer_size;
  if (job.pinned != nullptr) input_.unpin(std::exchange(job.pinned, nullptr));
  shared_.pipes.give_dirty(std::exchange(job.pipe, nullptr));
  shared_.buffers.give(std::exchange(job.buffer, nullptr), job.buffer_size);
  job.buffer_size = 0;
  jobs_.give(&job);
}

}  // namespace pv::nbd
