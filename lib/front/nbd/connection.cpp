// SPDX-License-Identifier: MIT
#include "front/nbd/connection.hpp"

#include <algorithm>
#include <cerrno>
#include <limits>
#include <sys/socket.h>

#include "front/nbd/protocol.hpp"

namespace pv::nbd {
namespace {

constexpr size_t k_send_at = 1 << 20;       // a batch is sent early when it is this large
constexpr size_t k_max_backlog = 64 << 20;  // answers plus requests in flight, per connection
constexpr size_t k_max_jobs = 4096;
constexpr int k_max_rounds = 16;  // of receiving and parsing, before others get a turn

}  // namespace

Connection::Connection(Shared& shared, Fd socket, uint32_t number,
                       std::function<void(Connection*)> on_end)
    : shared_(shared),
      socket_(std::move(socket)),
      number_(number),
      on_end_(std::move(on_end)),
      handshake_(shared.exported),
      input_(shared.buffers),
      replies_(shared.buffers, shared.pipes) {}

Connection::~Connection() {
  if (payload_job_) release(*payload_job_);
  if (socket_) shared_.loop.unwatch(socket_.get());
}

Result<> Connection::start() {
  const int size = 4 << 20;  // granted as far as net.core.wmem_max allows
  setsockopt(socket_.get(), SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  ask_how_to_greet();
  TRY(shared_.loop.watch(socket_.get(), interest_, [this](uint32_t events) { ready(events); }));
  ready(0);
  return {};
}

void Connection::close() {
  closing_ = true;
  update_interest();
  maybe_end();
}

void Connection::hang_up() {
  drop();
  maybe_end();
}

void Connection::ready(uint32_t events) {
  in_batch_ = true;
  if ((events & EPOLLOUT) != 0) blocked_ = false;
  const bool gone = (events & (EPOLLHUP | EPOLLERR)) != 0;
  if ((events & EPOLLIN) != 0 && !closing_ && !shared_.frozen) {
    receive_and_parse();
  } else if (gone) {
    drop();
  }
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
  if (cut_ && replies_.empty()) drop();
  // A client that sends its requests one by one will send the next one soon.
  constexpr size_t k_pattern = 64;  // a deep queue looks like that for a while, never for long
  if (batch_jobs_ != 0) single_ = batch_jobs_ == 1 && batch_small_ ? single_ + 1 : 0;
  if (batch_jobs_ != 0 && single_ >= k_pattern) shared_.loop.spin_once();
  batch_jobs_ = 0;
  batch_small_ = true;
  if (more_input()) turn_later();  // a full backlog had stopped the parser, and has drained
  update_interest();
  maybe_end();
}

// While the data of a large write comes in, what has been parsed settles where the next bytes go.
void Connection::receive_and_parse() {
  for (int round = 0; round < k_max_rounds && !closing_; ++round) {
    const size_t had = payload_have_;
    if (!receive()) return drop();
    parse();
    if (payload_job_ == nullptr || (round != 0 && payload_have_ == had)) return;
  }
}

// Reads what the socket holds into the input, or straight into a large write's payload. False when
// the client has gone.
bool Connection::receive() {
  const size_t most = large_writes_ ? k_request_size : Input::k_size;
  const size_t left = payload_job_ != nullptr ? payload_job_->request.length - payload_have_ : 0;
  const ssize_t n =
      left == 0
          ? input_.receive(socket_.get(), most)
          : input_.receive_behind(socket_.get(), payload_job_->buffer + payload_have_, left, most);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  if (n == 0) return false;
  payload_have_ += std::min(left, static_cast<size_t>(n));
  if (left != 0 && payload_have_ == payload_job_->request.length)
    submit(std::exchange(payload_job_, nullptr));
  return true;
}

void Connection::parse() {
  if (handshake_.state() == Handshake::State::negotiating)
    input_.consume(handshake_.feed(input_.view()));
  if (handshake_.state() != Handshake::State::transmission) return;
  while (!closing_ && parse_request()) {
  }
}

bool Connection::has_room() const {
  return !shared_.paused && flight_bytes_ + replies_.bytes() <= k_max_backlog &&
         jobs_.in_use() < k_max_jobs;
}

// Whether a complete request waits in the input buffer and may be taken.
bool Connection::more_input() const {
  return !closing_ && in_transmission() && !payload_job_ && skip_ == 0 &&
         input_.view().size() >= k_request_size && has_room();
}

// One request off the input; false when it is not complete or there is enough in flight.
bool Connection::parse_request() {
  size_t have = input_.view().size();
  if (skip_ != 0) {
    const size_t n = std::min<uint64_t>(skip_, have);
    skip_ -= n;
    input_.consume(n);
    if (skip_ != 0) return false;
    have -= n;
    finished(*std::exchange(refused_job_, nullptr), refused_error_);
  }
  if (payload_job_ || have < k_request_size || !has_room()) return false;
  const char* p = input_.view().data();
  if (get32(p) != k_request_magic) {
    drop();  // out of step: nothing that follows could be trusted
    return false;
  }
  input_.consume(k_request_size);
  begin(get16(p + 6), get16(p + 4), get64(p + 8), get64(p + 16), get32(p + 24));
  return true;
}

void Connection::queue(const Reply& reply) {
  if (reply.size() == 0) return;
  replies_.add(reply);
  // Never before the greeting, should a client not have waited for that.
  if (replies_.bytes() >= k_send_at && !blocked_ && handshake_.output().empty()) send();
}

// As much as the socket takes; the rest when it is writable again.
void Connection::send() {
  if (!socket_ || blocked_ || shared_.frozen || replies_.empty()) return;
  switch (replies_.send(socket_.get())) {
    case Replies::Sent::all:
      lent_.clear();
      return;
    case Replies::Sent::blocked:
      blocked_ = true;
      return;
    case Replies::Sent::faulted:
      // The image was cut from outside, or its medium failed under a page that had been there. What
      // was promised in a header cannot be sent; the client asks again, and then gets a copy or an
      // error.
      shared_.loans = false;
      return drop();
    case Replies::Sent::broken:
      return drop();
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
  replies_.clear();
  lent_.clear();
}

void Connection::update_interest() {
  if (!socket_) return;
  uint32_t wanted = 0;
  // The data of a request that was begun is read also while others have to wait.
  const bool room = payload_job_ != nullptr || skip_ != 0 || (has_room() && !input_.full());
  if (!closing_ && room && !shared_.frozen) wanted |= EPOLLIN;
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
