// SPDX-License-Identifier: MIT
#include "front/nbd/replies.hpp"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <utility>

namespace pv::nbd {
namespace {

constexpr size_t k_max_pieces = 512;

Replies::Sent failure() {
  if (errno == EAGAIN) return Replies::Sent::blocked;
  return errno == EFAULT ? Replies::Sent::faulted : Replies::Sent::broken;
}

}  // namespace

void Replies::add(const Reply& reply) {
  bytes_ += reply.size();
  queue_.push_back(reply);
}

Replies::Sent Replies::send(int socket) {
  Sent result = Sent::all;
  while (!empty() && result == Sent::all)
    result = queue_[sent_].pipe != nullptr ? send_pipe(socket) : send_memory(socket);
  if (empty()) {
    queue_.clear();
    sent_ = 0;
  }
  return result;
}

// One sendmsg over what lies in memory, up to the next pipe.
Replies::Sent Replies::send_memory(int socket) {
  iovec pieces[k_max_pieces];
  size_t count = 0;
  for (size_t i = sent_; i < queue_.size() && count + 2 <= k_max_pieces; ++i) {
    const Reply& reply = queue_[i];
    if (reply.pipe != nullptr) break;
    if (reply.head_size != 0) pieces[count++] = {const_cast<char*>(reply.head), reply.head_size};
    if (reply.body_size != 0) pieces[count++] = {const_cast<char*>(reply.body), reply.body_size};
  }
  msghdr message{};
  message.msg_iov = pieces;
  message.msg_iovlen = count;
  const ssize_t n = sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (n < 0) return errno == EINTR ? Sent::all : failure();
  advance(static_cast<size_t>(n));
  return Sent::all;
}

// Whoever uses this ignores SIGPIPE: splice(2) has no flag for that.
Replies::Sent Replies::send_pipe(int socket) {
  const Reply& reply = queue_[sent_];
  const ssize_t n =
      splice(reply.pipe->read_end.get(), nullptr, socket, nullptr, reply.size(), SPLICE_F_NONBLOCK);
  if (n < 0) return errno == EINTR ? Sent::all : failure();
  if (n == 0) return Sent::broken;
  advance(static_cast<size_t>(n));
  return Sent::all;
}

void Replies::advance(size_t bytes) {
  bytes_ -= bytes;
  while (bytes != 0) {
    Reply& reply = queue_[sent_];
    const size_t head = std::min(bytes, reply.head_size);
    reply.head += head;
    reply.head_size -= head;
    const size_t body = std::min(bytes - head, reply.body_size);
    if (reply.body != nullptr) reply.body += body;
    reply.body_size -= body;
    bytes -= head + body;
    if (reply.size() != 0) return;
    finished(reply, true);
    ++sent_;
  }
}

void Replies::finished(Reply& reply, bool drained) {
  buffers_.give(std::exchange(reply.buffer, nullptr), reply.buffer_size);
  Pipe* pipe = std::exchange(reply.pipe, nullptr);
  if (drained)
    pipes_.give(pipe);
  else
    pipes_.give_dirty(pipe);
}

void Replies::clear() {
  for (size_t i = sent_; i < queue_.size(); ++i) finished(queue_[i], false);
  queue_.clear();
  sent_ = bytes_ = 0;
}

}  // namespace pv::nbd
