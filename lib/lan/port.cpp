// SPDX-License-Identifier: MIT
#include "lan/port.hpp"

#include <cerrno>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/socket.hpp"

namespace pv::lan {
namespace {

constexpr size_t k_read_bytes = 64 << 10;  // a turn; then it is somebody else's

}  // namespace

Result<std::unique_ptr<Port>> Port::open(Loop& loop, Switch& lan, PortId id,
                                         const std::string& path) {
  TRY_ASSIGN(Fd listener, listen_unix(path));
  std::unique_ptr<Port> port(new Port(loop, lan, id, path, std::move(listener)));
  Port* self = port.get();
  TRY(loop.watch(self->listener_.get(), EPOLLIN, [self](uint32_t) { self->accept(); }));
  lan.add(id, [self](std::string_view frame) { return self->send(frame); });
  return port;
}

Port::~Port() {
  hang_up();
  loop_.unwatch(listener_.get());
  switch_.remove(id_);
  unlink(path_.c_str());
}

// A VM that was booted again may come before we have seen the end of the one before.
void Port::accept() {
  Fd fd = accept_unix(listener_.get());
  if (!fd) return;
  hang_up();
  if (!loop_.watch(fd.get(), EPOLLIN, [this](uint32_t events) { on_ready(events); })) return;
  connection_ = std::move(fd);
}

void Port::hang_up() {
  if (!connection_) return;
  loop_.unwatch(connection_.get());
  connection_.reset();
  reader_ = FrameReader();
  unsent_.clear();
  want_write_ = false;
  switch_.forget_addresses(id_);
}

void Port::on_ready(uint32_t events) {
  if ((events & EPOLLOUT) != 0 && !flush()) return hang_up();
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 && !receive()) hang_up();
}

bool Port::receive() {
  char chunk[k_read_bytes];
  const ssize_t n = recv(connection_.get(), chunk, sizeof chunk, MSG_DONTWAIT);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  if (n == 0 || !reader_.feed({chunk, static_cast<size_t>(n)})) return false;
  while (const auto frame = reader_.next()) switch_.receive(id_, *frame);
  return true;
}

Switch::Sent Port::send(std::string_view frame) {
  if (!connection_) return Switch::Sent::nobody;
  if (unsent_.size() + k_length_bytes + frame.size() > k_max_unsent) return Switch::Sent::no_room;
  unsent_ += length_prefix(frame.size());
  unsent_ += frame;
  // A connection that has broken is seen by the loop, not here, in the middle of a frame.
  if (!want_write_) static_cast<void>(flush());
  return Switch::Sent::yes;
}

bool Port::flush() {
  size_t sent = 0;
  ssize_t n = 0;
  while (sent < unsent_.size() && n >= 0) {
    n = ::send(connection_.get(), unsent_.data() + sent, unsent_.size() - sent,
               MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) sent += static_cast<size_t>(n);
    if (n < 0 && errno == EINTR) n = 0;
  }
  const bool fine = n >= 0 || errno == EAGAIN;
  unsent_.erase(0, sent);
  const bool want = !unsent_.empty();
  if (want != want_write_) loop_.change(connection_.get(), want ? EPOLLIN | EPOLLOUT : EPOLLIN);
  want_write_ = want;
  return fine;
}

}  // namespace pv::lan
