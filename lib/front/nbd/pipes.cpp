// SPDX-License-Identifier: MIT
#include "front/nbd/pipes.hpp"

#include <fcntl.h>
#include <unistd.h>

namespace pv::nbd {
namespace {

// A pipe has a slot for each page: those of the data, two half ones at its ends, and the header's;
// the kernel rounds up to a power of two.
constexpr int k_pipe_bytes = 512 << 10;

bool open_pipe(Pipe& pipe) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0) return false;
  pipe.read_end.reset(ends[0]);
  pipe.write_end.reset(ends[1]);
  return fcntl(ends[1], F_SETPIPE_SZ, k_pipe_bytes) >= k_pipe_bytes;
}

}  // namespace

Pipe* Pipes::take() {
  if (free_.empty()) {
    if (refused_ || all_.size() >= k_max) return nullptr;
    auto pipe = std::make_unique<Pipe>();
    refused_ = !open_pipe(*pipe);
    if (refused_) return nullptr;
    all_.push_back(std::move(pipe));
    return all_.back().get();
  }
  Pipe* pipe = free_.back();
  free_.pop_back();
  return pipe;
}

void Pipes::give(Pipe* pipe) {
  if (pipe != nullptr) free_.push_back(pipe);
}

void Pipes::give_dirty(Pipe* pipe) {
  if (pipe == nullptr) return;
  if (open_pipe(*pipe)) return free_.push_back(pipe);
  // It is lost, and so is one of k_max; whoever finds none takes the way through a buffer.
  pipe->read_end.reset();
  pipe->write_end.reset();
}

}  // namespace pv::nbd
