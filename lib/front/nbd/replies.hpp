// SPDX-License-Identifier: MIT
// Answers on their way out, in order: what lies in memory goes out many at a time with one sendmsg,
// what lies in a pipe is spliced. Owned by a connection; gives buffers and pipes back when their
// bytes are gone.
#pragma once

#include <cstddef>
#include <vector>

#include "front/nbd/buffers.hpp"
#include "front/nbd/pipes.hpp"

namespace pv::nbd {

struct Reply {
  const char* head = nullptr;  // in `buffer`
  size_t head_size = 0;
  const char* body = nullptr;  // lent memory, or null
  size_t body_size = 0;        // ... or what the pipe holds
  char* buffer = nullptr;      // given back when sent, with buffer_size
  size_t buffer_size = 0;
  Pipe* pipe = nullptr;  // holds head and body; given back when sent
  size_t size() const { return head_size + body_size; }
};

class Replies {
 public:
  Replies(Buffers& buffers, Pipes& pipes) : buffers_(buffers), pipes_(pipes) {}
  ~Replies() { clear(); }
  Replies(const Replies&) = delete;
  Replies& operator=(const Replies&) = delete;

  void add(const Reply& reply);
  bool empty() const { return sent_ == queue_.size(); }
  size_t bytes() const { return bytes_; }

  enum class Sent {
    all,
    blocked,  // the socket takes no more for now
    broken,   // the client is gone
    faulted,  // lent memory is not there any more: the stream cannot be kept whole
  };
  Sent send(int socket);
  void clear();
  // Of an answer that will not be sent.
  void discard(Reply& reply) { finished(reply, false); }

 private:
  Sent send_memory(int socket);
  Sent send_pipe(int socket);
  void advance(size_t bytes);
  void finished(Reply& reply, bool drained);

  Buffers& buffers_;
  Pipes& pipes_;
  std::vector<Reply> queue_;
  size_t sent_ = 0;  // whole replies
  size_t bytes_ = 0;
};

}  // namespace pv::nbd
