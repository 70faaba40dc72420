// SPDX-License-Identifier: MIT
#include "front/nbd/connection.hpp"

#include <limits>
#include <sys/socket.h>

#include "blk/checked.hpp"
#include "blk/wire.hpp"
#include "front/nbd/protocol.hpp"

namespace pv::nbd {
namespace {

constexpr size_t k_input_size = 256 << 10;
constexpr size_t k_small = 64;              // room of a reply without data
constexpr size_t k_send_at = 1 << 20;       // a batch is sent early when it is this large
constexpr size_t k_max_backlog = 64 << 20;  // answers plus requests in flight, per connection
constexpr size_t k_max_jobs = 4096;
constexpr int k_max_iov = 256;
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

Connection::Connection(Shared& shared, Fd socket, uint32_t number,
                       std::function<void(Connection*)> on_end)
    : shared_(shared),
      socket_(std::move(socket)),
      number_(number),
      on_end_(std::move(on_end)),
      handshake_(shared.exported),
      input_(new char[k_input_size]) {}

Connection::~Connection() {
  for (const Reply& reply : replies_) shared_.buffers.give(reply.buffer, reply.buffer_size);
  if (payload_job_) release(*payload_job_);
  if (socket_) shared_.loop.unwatch(socket_.get());
}

Result<> Connection::start() {
  const int size = 4 << 20;  // granted as far as net.core.wmem_max allows
  setsockopt(socket_.get(), SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  TRY(shared_.loop.watch(socket_.get(), interest_, [this](uint32_t events) { ready(events); }));
  ready(0);
  return {};
}

void Connection::close() {
  closing_ = true;
  update_interest();
  maybe_end();
}

void Connection::ready(uint32_t events) {
  in_batch_ = true;
  if ((events & EPOLLOUT) != 0) blocked_ = false;
  const bool gone = (events & (EPOLLHUP | EPOLLERR)) != 0;
  if ((events & EPOLLIN) != 0 && !closing_) {
    if (!receive()) drop();
  } else if (gone) {
    drop();
  }
  if (!closing_) parse();
  std::string& greeting = handshake_.output();
  if (!greeting.empty() && socket_) {
    // The option phase is short and its answers are small: a client that does not read them is cut.
    const ssize_t n = ::send(socket_.get(), greeting.data(), greeting.size(), MSG_NOSIGNAL);
    if (n != static_cast<ssize_t>(greeting.size())) drop();
    greeting.clear();
  }
  if (handshake_.state() == Handshake::State::closed) closing_ = true;
  in_batch_ = false;
  turn();
}

// Sends what a batch has produced and settles what to wait for next.
void Connection::turn() {
  send();
  if (more_input()) turn_later();  // a full backlog had stopped the parser, and has drained
  update_interest();
  maybe_end();
}

// Reads what the socket holds into the input buffer, or straight into a large write's payload.
bool Connection::receive() {
  if (payload_job_) {
    receive_payload();
    if (payload_job_) return socket_.get() >= 0 && !closing_;
  }
  if (input_begin_ != 0) {
    std::memmove(input_.get(), input_.get() + input_begin_, input_end_ - input_begin_);
    input_end_ -= input_begin_;
    input_begin_ = 0;
  }
  const ssize_t n = recv(socket_.get(), input_.get() + input_end_, k_input_size - input_end_, 0);
  if (n > 0) {
    input_end_ += static_cast<size_t>(n);
    return true;
  }
  return n < 0 && (errno == EAGAIN || errno == EINTR);
}

void Connection::receive_payload() {
  const size_t left = payload_job_->request.length - payload_have_;
  const ssize_t n = recv(socket_.get(), payload_job_->buffer + payload_have_, left, 0);
  if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
    closing_ = true;
    return;
  }
  if (n < 0) return;
  payload_have_ += static_cast<size_t>(n);
  if (payload_have_ == payload_job_->request.length) {
    Job* job = std::exchange(payload_job_, nullptr);
    submit(job);
  }
}

void Connection::parse() {
  if (handshake_.state() == Handshake::State::negotiating)
    input_begin_ += handshake_.feed({input_.get() + input_begin_, input_end_ - input_begin_});
  if (handshake_.state() != Handshake::State::transmission) return;
  while (!closing_ && parse_request()) {
  }
}

bool Connection::has_room() const {
  return flight_bytes_ + reply_bytes_ <= k_max_backlog && jobs_.in_use() < k_max_jobs;
}

// Whether a complete request waits in the input buffer and may be taken.
bool Connection::more_input() const {
  return !closing_ && in_transmission() && !payload_job_ && skip_ == 0 &&
         input_end_ - input_begin_ >= k_request_size && has_room();
}

// One request off the input; false when it is not complete or there is enough in flight.
bool Connection::parse_request() {
  size_t have = input_end_ - input_begin_;
  if (skip_ != 0) {
    const size_t n = std::min<uint64_t>(skip_, have);
    skip_ -= n;
    input_begin_ += n;
    if (skip_ != 0) return false;
    have -= n;
  }
  if (payload_job_ || have < k_request_size || !has_room()) return false;
  const char* p = input_.get() + input_begin_;
  if (get32(p) != k_request_magic) {
    drop();  // out of step: nothing that follows could be trusted
    return false;
  }
  input_begin_ += k_request_size;
  begin(get16(p + 6), get16(p + 4), get64(p + 8), get64(p + 16), get32(p + 24));
  return true;
}

void Connection::begin(uint16_t command, uint16_t flags, uint64_t cookie, uint64_t offset,
                       uint32_t length) {
  if (command == k_cmd_disc) {
    closing_ = true;
    return;
  }
  Job* job = jobs_.take();
  blk::Request& request = job->request;
  request = blk::Request{};
  job->connection = this;
  job->cookie = cookie;
  job->extents.clear();
  job->buffer = nullptr;
  job->buffer_size = 0;
  request.offset = offset;
  request.length = length;
  request.front = blk::Front::nbd;
  request.connection = number_;
  request.owner = job;
  request.done = [](blk::Request& done, int error) {
    auto& finished_job = *static_cast<Job*>(done.owner);
    finished_job.connection->finished(finished_job, error);
  };
  shared_.counters.started();
  const bool known = command_op(command, request.op);
  const bool carries_data = command == k_cmd_write;
  int error = 0;
  if (!known) {
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
  if (error == 0 && (request.op == blk::Op::read || carries_data)) {
    job->buffer_size = length + (carries_data ? 0 : k_read_header);
    job->buffer = shared_.buffers.take(job->buffer_size);
    if (job->buffer == nullptr) error = ENOMEM;
    job->segment = {job->buffer + (carries_data ? 0 : k_read_header), length};
    request.data = &job->segment;
    request.segments = 1;
  }
  if (request.op == blk::Op::map) request.extents = &job->extents;
  flight_bytes_ += job->buffer_size;
  if (error != 0) {
    if (carries_data) skip_ = length;
    return finished(*job, error);
  }
  if (!carries_data) return submit(job);
  payload_have_ = std::min<size_t>(length, input_end_ - input_begin_);
  std::memcpy(job->buffer, input_.get() + input_begin_, payload_have_);
  input_begin_ += payload_have_;
  if (payload_have_ == length) return submit(job);
  payload_job_ = job;
}

void Connection::submit(Job* job) {
  shared_.disk.submit(job->request);
}

void Connection::finished(Job& job, int error) {
  const blk::Op op = job.request.op;
  shared_.counters.completed(op, job.request.length, error);
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

void Connection::answer_read(Job& job, int error) {
  if (error != 0 || job.buffer == nullptr) return answer_status(job, error);
  // The header goes right in front of the data, so an answer is one piece.
  const auto length = static_cast<uint32_t>(job.request.length);
  char* start = job.buffer;
  if (handshake_.structured()) {
    char* p = chunk_header(start, k_reply_done, k_reply_offset_data, job.cookie, length + 8);
    put64(p, job.request.offset);
  } else {
    start += k_read_header - k_simple_reply_size;
    put64(put32(put32(start, k_simple_reply_magic), 0), job.cookie);
  }
  const size_t size = static_cast<size_t>(job.buffer + k_read_header - start) + length;
  queue({start, size, std::exchange(job.buffer, nullptr), job.buffer_size});
}

void Connection::answer_map(Job& job) {
  const size_t count = std::min(job.extents.size(), k_max_status_extents);
  const size_t payload = 4 + 8 * count;
  char* start = small_reply(k_chunk_header_size + payload);
  if (start == nullptr) return;
  char* p = chunk_header(start, k_reply_done, k_reply_block_status, job.cookie,
                         static_cast<uint32_t>(payload));
  p = put32(p, k_base_allocation_id);
  for (size_t i = 0; i < count; ++i) {
    const blk::Extent& extent = job.extents[i];
    const uint64_t limit = std::numeric_limits<uint32_t>::max() & ~uint64_t{0xfff};
    p = put32(p, static_cast<uint32_t>(std::min(extent.length, limit)));
    p = put32(p, extent.flags);
  }
  queue({start, k_chunk_header_size + payload, start, k_chunk_header_size + payload});
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
  queue({start, size, start, k_small});
}

char* Connection::small_reply(size_t size) {
  char* buffer = shared_.buffers.take(size);
  if (buffer == nullptr) drop();
  return buffer;
}

void Connection::queue(Reply reply) {
  reply_bytes_ += reply.size;
  replies_.push_back(reply);
  if (reply_bytes_ >= k_send_at && !blocked_) send();
}

// As much as the socket takes; the rest when it is writable again.
void Connection::send() {
  while (socket_ && !blocked_ && replies_sent_ < replies_.size()) {
    iovec parts[k_max_iov];
    const size_t count = std::min<size_t>(k_max_iov, replies_.size() - replies_sent_);
    for (size_t i = 0; i < count; ++i)
      parts[i] = {replies_[replies_sent_ + i].data, replies_[replies_sent_ + i].size};
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = count;
    const ssize_t n = sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      blocked_ = true;
      break;
    }
    if (n < 0) {
      drop();
      return;
    }
    reply_bytes_ -= static_cast<size_t>(n);
    for (auto left = static_cast<size_t>(n); left != 0;) {
      Reply& reply = replies_[replies_sent_];
      const size_t part = std::min(left, reply.size);
      reply.data += part;
      reply.size -= part;
      left -= part;
      if (reply.size != 0) break;
      shared_.buffers.give(std::exchange(reply.buffer, nullptr), reply.buffer_size);
      ++replies_sent_;
    }
  }
  if (replies_sent_ == replies_.size()) {
    replies_.clear();
    replies_sent_ = 0;
  }
}

// Completions outside a batch (timers, asynchronous I/O) are gathered until the loop's next turn.
void Connection::turn_later() {
  if (turn_posted_) return;
  turn_posted_ = true;
  shared_.loop.post([this] {
    turn_posted_ = false;
    in_batch_ = true;
    if (!closing_ && in_transmission()) parse();
    in_batch_ = false;
    turn();
  });
}

// The client is gone or has broken the protocol: forget what was to be sent.
void Connection::drop() {
  closing_ = true;
  if (!socket_) return;
  shared_.loop.unwatch(socket_.get());
  socket_.reset();
  for (Reply& reply : replies_)
    shared_.buffers.give(std::exchange(reply.buffer, nullptr), reply.buffer_size);
  replies_.clear();
  replies_sent_ = reply_bytes_ = 0;
}

void Connection::update_interest() {
  if (!socket_) return;
  uint32_t wanted = 0;
  const bool room =
      has_room() && (input_end_ - input_begin_ < k_input_size || payload_job_ != nullptr);
  if (!closing_ && room) wanted |= EPOLLIN;
  if (blocked_) wanted |= EPOLLOUT;
  if (wanted == interest_) return;
  interest_ = wanted;
  shared_.loop.change(socket_.get(), wanted);
}

void Connection::maybe_end() {
  if (!closing_ || in_batch_ || turn_posted_) return;
  if (payload_job_) {
    Job* job = std::exchange(payload_job_, nullptr);  // its data will never come
    shared_.counters.completed(job->request.op, 0, ECONNRESET);
    release(*job);
  }
  if (jobs_.in_use() != 0 || (socket_ && !replies_.empty())) return;
  drop();
  on_end_(this);
}

void Connection::release(Job& job) {
  flight_bytes_ -= job.buffer_size;
  shared_.buffers.give(std::exchange(job.buffer, nullptr), job.buffer_size);
  job.buffer_size = 0;
  jobs_.give(&job);
}

}  // namespace pv::nbd
