// SPDX-License-Identifier: MIT
#include "front/nbd/input.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <sys/socket.h>

namespace pv::nbd {
namespace {

constexpr size_t k_small_room = 64 << 10;  // with less the rest is moved to a block's front

}  // namespace

Input::~Input() {
  buffers_.give(block_->data, k_size);
}

Input::Block* Input::fresh() {
  Block* block = blocks_.take();
  block->data = buffers_.take(k_size);
  if (block->data == nullptr) throw std::bad_alloc();
  block->pins = 0;
  block->current = true;
  return block;
}

iovec Input::room(size_t most) {
  if (block_->pins == 0 && begin_ == end_) begin_ = end_ = 0;
  if (k_size - end_ < k_small_room && block_->pins == 0 && begin_ != 0) {
    std::memmove(block_->data, block_->data + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  } else if (k_size - end_ < k_small_room && block_->pins != 0) {
    Block* old = block_;
    block_ = fresh();
    std::memcpy(block_->data, old->data + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
    old->current = false;
  }
  return {block_->data + end_, std::min(most, k_size - end_)};
}

ssize_t Input::receive(int socket, size_t most) {
  const iovec free = room(most);
  if (free.iov_len == 0) {
    errno = EAGAIN;
    return -1;
  }
  const ssize_t n = recv(socket, free.iov_base, free.iov_len, 0);
  if (n > 0) end_ += static_cast<size_t>(n);
  return n;
}

ssize_t Input::receive_behind(int socket, char* first, size_t first_size, size_t most) {
  iovec pieces[2] = {{first, first_size}, room(most)};
  msghdr message{};
  message.msg_iov = pieces;
  message.msg_iovlen = 2;
  const ssize_t n = recvmsg(socket, &message, 0);
  if (n > static_cast<ssize_t>(first_size)) end_ += static_cast<size_t>(n) - first_size;
  return n;
}

Input::Block* Input::pin() {
  // The last block is never pinned: there must always be one to go on with.
  if (block_->pins == 0 && blocks_.in_use() >= k_max_blocks) return nullptr;
  ++block_->pins;
  return block_;
}

void Input::unpin(Block* block) {
  if (--block->pins != 0 || block->current) return;
  buffers_.give(block->data, k_size);
  blocks_.give(block);
}

}  // namespace pv::nbd
