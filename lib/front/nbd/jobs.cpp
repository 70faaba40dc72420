// SPDX-License-Identifier: MIT
// From one request on the wire to the disk. (The socket and its batches are in connection.cpp, the
// way back in answers.cpp.)
#include <algorithm>
#include <cerrno>
#include <unistd.h>

#include "front/nbd/connection.hpp"
#include "front/nbd/protocol.hpp"

namespace pv::nbd {
namespace {

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

// Of a command, what the client was not offered is refused. Flags that a command has no use for are
// ignored where the protocol says so (NBD_CMD_FLAG_FUA).
uint16_t allowed_flags(blk::Op op, uint16_t offered) {
  const auto fua = static_cast<uint16_t>((offered & k_send_fua) != 0 ? k_cmd_flag_fua : 0);
  switch (op) {
    case blk::Op::read:
      return fua | ((offered & k_send_df) != 0 ? k_cmd_flag_df : 0);
    case blk::Op::zero:
      return fua | k_cmd_flag_no_hole;
    case blk::Op::map:
      return fua | k_cmd_flag_req_one;
    default:
      return fua;
  }
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
  job->wire = blk::WireFault{};
  job->wire.structured = handshake_.structured();
  request.wire = &job->wire;
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
  } else if ((flags & ~allowed_flags(request.op, handshake_.offered())) != 0 ||
             (command == k_cmd_trim && (handshake_.offered() & k_send_trim) == 0)) {
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
  const bool changes = blk::changes_data(request.op);
  const auto overlaps = [&](const Range& range) {
    return request.offset < range.end && range.begin < request.offset + request.length;
  };
  const bool greeted = handshake_.output().empty();
  if (changes && greeted && std::any_of(lent_.begin(), lent_.end(), overlaps)) send();
  shared_.disk.submit(job->request);
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

char* Connection::small_buffer(size_t size) {
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
