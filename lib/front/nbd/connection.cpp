// SPDX-License-Identifier: MIT
#include "front/nbd/connection.hpp"

#include <limits>
#include <sys/socket.h>

#include "front/nbd/protocol.hpp"

namespace pv::nbd {
namespace {

constexpr size_t k_input_size = 256 << 10;
constexpr size_t k_send_at = 1 << 20;       // a batch is sent early when it is this large
constexpr size_t k_max_backlog = 64 << 20;  // answers plus requests in flight, per connection
constexpr size_t k_max_jobs = 4096;
constexpr int k_max_iov = 256;

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
  // A client that sends its requests one by one will send the next one soon.
  constexpr size_t k_few = 4;
  if (batch_jobs_ != 0 && batch_jobs_ <= k_few) shared_.loop.spin_once();
  batch_jobs_ = 0;
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
  return !shared_.paused && flight_bytes_ + reply_bytes_ <= k_max_backlog &&
         jobs_.in_use() < k_max_jobs;
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
    finished(*std::exchange(refused_job_, nullptr), refused_error_);
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

void Connection::queue(Reply reply) {
  reply_bytes_ += reply.size;
  replies_.push_back(reply);
  // Never before the greeting, should a client not have waited for that.
  if (reply_bytes_ >= k_send_at && !blocked_ && handshake_.output().empty()) send();
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
  for (Job** waiting : {&payload_job_, &refused_job_}) {
    Job* job = std::exchange(*waiting, nullptr);  // its data will never come
    if (job == nullptr) continue;
    shared_.counters.completed(job->request.op, 0, ECONNRESET);
    release(*job);
  }
  if (jobs_.in_use() != 0 || (socket_ && !replies_.empty())) return;
  drop();
  on_end_(this);
}

}  // namespace pv::nbd
