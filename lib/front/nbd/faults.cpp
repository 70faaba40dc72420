// SPDX-License-Identifier: MIT
// What faults make of a connection and of its answers: it is cut, an answer breaks the protocol, a
// read that fails brings the part that is good. (Part of Connection; nothing here runs without a
// rule, but one question for each new client.)
#include <algorithm>
#include <unistd.h>

#include "base/json.hpp"
#include "base/rng.hpp"
#include "base/text.hpp"
#include "blk/fault/wire_kinds.hpp"
#include "front/nbd/connection.hpp"
#include "front/nbd/protocol.hpp"

namespace pv::nbd {
namespace {

constexpr uint32_t k_no_error = 1000;     // not among the protocol's errors
constexpr uint16_t k_no_chunk_type = 77;  // ... nor among its chunks; the bit of errors is not set
constexpr uint32_t k_excess = 512;        // bytes of a chunk that nobody has asked for
constexpr size_t k_cookie_at = 8, k_type_at = 6, k_length_at = 16;

// Leaves the first `size` bytes of it.
void shorten(Reply& reply, size_t size) {
  const size_t head = std::min(reply.head_size, size);
  reply.body_size = std::min(reply.body_size, size - head);
  reply.head_size = head;
}

// The header of an answer that is not on its way yet.
char* header_of(const Reply& reply) {
  return const_cast<char*>(reply.head);
}

}  // namespace

// The points before there is a request: settled when the client comes.
void Connection::ask_how_to_greet() {
  const auto answer = shared_.disk.control({{"op", "fault.greet"}, {"connection", number_}});
  if (!answer) return;  // no fault layer
  const std::string at = get_string(*answer, "at");
  if (at == name_of(blk::HangUp::options)) handshake_.stop_at(Handshake::Stop::first_option);
  if (at == name_of(blk::HangUp::exported)) handshake_.stop_at(Handshake::Stop::entry);
  if (at != name_of(blk::HangUp::greeting)) return;
  std::string& greeting = handshake_.output();
  greeting.resize(std::min<size_t>(greeting.size(), get_u64(*answer, "bytes")));
  cut_ = closing_ = true;
}

void Connection::answer_faulty(Job& job, int error) {
  if (job.loan.kind == blk::Loan::piped && !take_back(job)) return drop();
  if (job.wire.kind == blk::WireFault::hang_up) return hang_up(job, error);
  if (error == 0 && job.wire.kind == blk::WireFault::violate) return violate(job);
  if (error != 0 && job.wire.good != 0) return answer_prefix(job, error);
  queue(answer(job, error));
}

// Brings what the pipe holds to where a read that is not lent has it.
bool Connection::take_back(Job& job) {
  Pipe* pipe = std::exchange(job.pipe, nullptr);
  char* end = job.segment.iov_len + static_cast<char*>(job.segment.iov_base);
  char* at = static_cast<char*>(job.segment.iov_base) -
             (handshake_.structured() ? k_read_header : k_simple_reply_size);
  while (at < end) {
    const ssize_t n = ::read(pipe->read_end.get(), at, end - at);
    if (n <= 0) {
      shared_.pipes.give_dirty(pipe);
      return false;
    }
    at += n;
  }
  shared_.pipes.give(pipe);
  job.loan.kind = blk::Loan::none;
  return true;
}

// What was answered before goes out first, then so much of this answer as was asked for.
void Connection::hang_up(Job& job, int error) {
  if (job.wire.bytes != 0) {
    Reply reply = answer(job, error);
    shorten(reply, job.wire.bytes);
    queue(reply);
  }
  cut_ = closing_ = true;
}

void Connection::violate(Job& job) {
  const auto what = static_cast<blk::Violation>(job.wire.how);
  Reply reply =
      what == blk::Violation::error_code ? status_answer(job, k_no_error) : answer(job, 0);
  if (reply.size() == 0) return;
  char* head = header_of(reply);
  const auto half = static_cast<uint32_t>(job.request.length / 2);
  Reply behind;
  switch (what) {
    case blk::Violation::magic:
      put32(head, ~get32(head));
      break;
    case blk::Violation::cookie:
      put64(head + k_cookie_at, job.wire.chance + (job.wire.chance == job.cookie ? 1 : 0));
      break;
    case blk::Violation::error_code:
      break;
    case blk::Violation::chunk_type:
      reply = alien_chunk(job, reply);
      break;
    case blk::Violation::chunk_length:
      put32(head + k_length_at, get32(head + k_length_at) + k_excess);
      behind = noise(job.wire.chance, k_excess);
      break;
    case blk::Violation::missing_data:
      put32(head + k_length_at, half + 8);
      shorten(reply, k_read_header + half);
      break;
    case blk::Violation::twice:
      behind = again(reply);
      break;
    case blk::Violation::garbage:
      queue(noise(job.wire.chance, job.wire.bytes));
      break;
  }
  queue(reply);
  queue(behind);
}

// Of a request that is answered in chunks the chunk itself, of others one without data.
Reply Connection::alien_chunk(const Job& job, Reply reply) {
  if (get32(reply.head) == k_structured_reply_magic) {
    put16(header_of(reply) + k_type_at, k_no_chunk_type);
    return reply;
  }
  replies_.discard(reply);
  char* start = small_buffer(k_chunk_header_size);
  if (start == nullptr) return {};
  chunk_header(start, k_reply_done, k_no_chunk_type, job.cookie, 0);
  return {start, k_chunk_header_size, nullptr, 0, start, k_chunk_header_size, nullptr};
}

Reply Connection::again(const Reply& reply) {
  char* copy = small_buffer(reply.head_size);
  if (copy == nullptr) return {};
  std::memcpy(copy, reply.head, reply.head_size);
  return {copy, reply.head_size, reply.body, reply.body_size, copy, reply.head_size, nullptr};
}

Reply Connection::noise(uint64_t seed, size_t bytes) {
  char* start = small_buffer(bytes);
  if (start == nullptr) return {};
  Rng rng(seed);
  for (size_t i = 0; i < bytes; ++i) start[i] = static_cast<char>(rng.next());
  return {start, bytes, nullptr, 0, start, bytes, nullptr};
}

// A read that has failed, with the data in front of its first bad byte.
void Connection::answer_prefix(Job& job, int error) {
  static_cast<void>(settle_loan(job, error));
  const uint64_t good = job.wire.good;
  if (!handshake_.structured() || job.buffer == nullptr || good >= job.request.length)
    return queue(answer(job, error));
  Reply data = read_answer(job);
  char* head = header_of(data);
  chunk_header(head, 0, k_reply_offset_data, job.cookie, static_cast<uint32_t>(good) + 8);
  shorten(data, k_read_header + good);
  Reply status = status_answer(job, wire_error(job.request.op, error));
  if (status.size() == 0) return replies_.discard(data);
  put16(header_of(status) + k_type_at, k_reply_error_offset);
  put32(header_of(status) + k_length_at, 6 + 8);
  put64(header_of(status) + status.head_size, job.request.offset + good);
  status.head_size += 8;
  queue(data);
  queue(status);
}

}  // namespace pv::nbd
