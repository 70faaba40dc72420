// SPDX-License-Identifier: MIT
#include "vm/supervisor/state_sink.hpp"

#include <cerrno>
#include <unistd.h>

#include "base/socket.hpp"

namespace pv::vm {

Result<> StateSink::start(const std::string& path, size_t max_bytes, Done done) {
  stop();
  unlink(path.c_str());
  TRY_ASSIGN(listener_, listen_unix(path));
  path_ = path;
  max_bytes_ = max_bytes;
  done_ = std::move(done);
  return loop_.watch(listener_.get(), EPOLLIN, [this](uint32_t) { accept(); });
}

void StateSink::stop() {
  if (listener_) {
    loop_.unwatch(listener_.get());
    listener_.reset();
    unlink(path_.c_str());
  }
  if (peer_) {
    loop_.unwatch(peer_.get());
    peer_.reset();
  }
  bytes_ = std::string();
  done_ = nullptr;
}

void StateSink::accept() {
  Fd peer = accept_unix(listener_.get());
  if (!peer || peer_) return;
  peer_ = std::move(peer);
  if (auto watched = loop_.watch(peer_.get(), EPOLLIN, [this](uint32_t) { receive(); }); !watched)
    finish(fail(watched.error()));
}

void StateSink::receive() {
  char buffer[64 << 10];
  for (;;) {
    const ssize_t n = read(peer_.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n < 0) return finish(fail_errno("cannot read QEMU's state", errno));
    if (n == 0) return finish(std::move(bytes_));
    if (bytes_.size() + static_cast<size_t>(n) > max_bytes_)
      return finish(fail(Code::unsupported,
                         "QEMU's state is larger than any should be, so that no snapshot can be "
                         "taken with it (see pv-vm doctor)"));
    bytes_.append(buffer, static_cast<size_t>(n));
  }
}

void StateSink::finish(Result<std::string> bytes) {
  const Done done = std::move(done_);
  stop();
  if (done) done(std::move(bytes));
}

}  // namespace pv::vm
