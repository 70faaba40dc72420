// SPDX-License-Identifier: MIT
// What a client has sent and nobody has taken yet: a block of memory that is received into at its
// end and parsed at its front. A small write's data stays where it is until the write is done (a
// pin), so it is not copied; new data then goes behind it, or into another block. Owned by a
// connection.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <sys/uio.h>

#include "blk/child.hpp"
#include "front/nbd/buffers.hpp"

namespace pv::nbd {

class Input {
 public:
  static constexpr size_t k_size = 256 << 10;

  struct Block {
    char* data = nullptr;
    uint32_t pins = 0;
    bool current = false;
  };

  explicit Input(Buffers& buffers) : buffers_(buffers), block_(fresh()) {}
  ~Input();
  Input(const Input&) = delete;
  Input& operator=(const Input&) = delete;

  std::string_view view() const { return {block_->data + begin_, end_ - begin_}; }
  void consume(size_t n) { begin_ += n; }

  // What recv(2) returns; at most `most` bytes, and never more than there is room for.
  ssize_t receive(int socket, size_t most);
  // The same, but the first bytes go to `first`, which takes `first_size`.
  ssize_t receive_behind(int socket, char* first, size_t first_size, size_t most);
  bool full() const { return block_->pins == 0 && begin_ == 0 && end_ == k_size; }

  // Keeps the current block's bytes in place until unpin(); null when too many are kept already.
  Block* pin();
  void unpin(Block* block);

 private:
  static constexpr size_t k_max_blocks = 8;
  Block* fresh();
  iovec room(size_t most);

  Buffers& buffers_;
  blk::Pool<Block> blocks_;
  Block* block_;
  size_t begin_ = 0;
  size_t end_ = 0;
};

}  // namespace pv::nbd
